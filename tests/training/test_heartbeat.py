"""The heartbeat: a file for those outside, stacks where a process hangs."""

import contextlib
import json
import time

from linearsr_jax.training.heartbeat import Heartbeat


def hang():
    time.sleep(1.0)


def test_a_process_that_hangs_says_where(tmp_path):
    with contextlib.closing(Heartbeat(tmp_path / "hosts", hangs_after=0.3)) as heart:
        heart.beat(7)
        hang()
    text = (tmp_path / "hosts" / "0.stacks").read_text()
    assert " in hang\n" in text
    assert json.loads((tmp_path / "hosts" / "0.json").read_text())["step"] == 7


def test_one_that_goes_on_says_nothing(tmp_path):
    with contextlib.closing(Heartbeat(tmp_path, hangs_after=5.0)) as heart:
        for step in range(3):
            heart.beat(step)
    assert (tmp_path / "0.stacks").read_text() == ""
