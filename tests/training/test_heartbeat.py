"""The heartbeat: a file for those outside, stacks of what hangs, and its end."""

import contextlib
import errno
import json
import logging
import threading
import time
from pathlib import Path

import pytest

from linearsr_jax.training import heartbeat
from linearsr_jax.training.heartbeat import Heartbeat


def hang():
    time.sleep(1.0)


@pytest.fixture
def ended(monkeypatch):
    """Set when the process would have ended, which it does not."""
    event, codes = threading.Event(), []
    monkeypatch.setattr(
        heartbeat.os, "_exit", lambda code: (codes.append(code), event.set())
    )
    monkeypatch.setattr(heartbeat, "_TICK", 0.05)
    yield event
    assert codes in ([], [1])


def test_a_process_that_hangs_before_its_first_step_says_where(tmp_path):
    with contextlib.closing(Heartbeat(tmp_path, exits_after=0, hangs_after=0.3)):
        hang()
    assert " in hang\n" in (tmp_path / "0.stacks").read_text()


def test_a_process_that_hangs_says_where(tmp_path):
    with contextlib.closing(
        Heartbeat(tmp_path / "hosts", exits_after=0, hangs_after=0.3)
    ) as heart:
        heart.beat(7)
        hang()
    text = (tmp_path / "hosts" / "0.stacks").read_text()
    assert " in hang\n" in text
    assert json.loads((tmp_path / "hosts" / "0.json").read_text())["step"] == 7


def test_one_that_goes_on_says_nothing_and_erases_nothing(tmp_path, ended):
    (tmp_path / "0.stacks").write_text("why the last one hung\n")
    with contextlib.closing(Heartbeat(tmp_path, exits_after=60)) as heart:
        for step in range(3):
            heart.beat(step)
    before, header = (tmp_path / "0.stacks").read_text().splitlines()
    assert before == "why the last one hung"
    assert header.endswith(" begins")
    assert not ended.is_set()


def test_one_that_hangs_for_too_long_ends(tmp_path, capfd, ended):
    with contextlib.closing(Heartbeat(tmp_path, exits_after=0.3)) as heart:
        heart.beat(7)
        assert ended.wait(60)
    assert "no step has begun for 0.005 minutes" in capfd.readouterr().err
    text = (tmp_path / "0.stacks").read_text()
    assert " in test_one_that_hangs_for_too_long_ends\n" in text


def test_what_is_no_step_may_take_long(tmp_path, ended):
    with contextlib.closing(Heartbeat(tmp_path, exits_after=0.3)) as heart:
        # Before the first step a run reads its photographs, for instance.
        assert not ended.wait(0.6)
        heart.beat(1)
        with heart.paused():
            assert not ended.wait(0.6)
        assert ended.wait(60)


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch, caplog):
    tried, real = threading.Event(), Path.write_text

    def fail(path, *args, **options):
        if path.suffix == ".tmp":
            tried.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    monkeypatch.setattr(heartbeat, "_EVERY", 0.01)
    with (
        caplog.at_level(logging.WARNING, heartbeat.__name__),
        contextlib.closing(Heartbeat(tmp_path, exits_after=0)) as heart,
    ):
        for step in range(2):
            tried.clear()
            heart.beat(step)
            assert tried.wait(60)
    assert caplog.text.count("No space left on device; training goes on") == 1
    assert not (tmp_path / "0.json").exists()
