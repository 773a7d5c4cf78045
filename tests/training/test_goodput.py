"""Goodput by a clock that the test turns."""

import sys
import types

import pytest

from linearsr_jax.esgf.run_log import KINDS
from linearsr_jax.training import cloud_goodput
from linearsr_jax.training.cloud_goodput import CloudGoodput, open_cloud_goodput
from linearsr_jax.training.goodput import Goodput
from linearsr_jax.training.record import TrainError


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_every_second_has_one_kind():
    clock = Clock()
    goodput = Goodput(clock)
    for kind, seconds in (("starting", 5), ("compiling", 10), ("data_wait", 1)):
        with goodput.spending(kind):
            clock.now += seconds
    clock.now += 20  # trains to step 10
    goodput.note_checkpoint(10)
    with goodput.spending("saving"):
        clock.now += 4
    clock.now += 30  # trains on, and is rewound
    goodput.note_rewind(10)
    clock.now += 30
    with pytest.raises(OSError), goodput.spending("validating"):
        clock.now += 3
        raise OSError
    found = goodput.report()
    assert [found[f"seconds_{kind}"] for kind in KINDS] == [5, 10, 1, 4, 3, 30]
    assert found["seconds"] == 103
    assert found["goodput_percent"] == pytest.approx(100 * 50 / 103)
    # To the beginning: all is lost.
    goodput.note_rewind(0)
    assert goodput.report()["goodput_percent"] == pytest.approx(0)


class Recorder:
    """Has ml-goodput-measurement's methods, and keeps what they are told."""

    def __init__(self, *arguments, **named):
        self.calls = []
        self.made_with = arguments, named

    def __getattr__(self, name):
        return lambda *arguments, **named: self.calls.append(
            (name, *arguments, *named.values())
        )


def test_google_is_told_of_the_same_times():
    recorder = Recorder()
    listener = CloudGoodput(recorder)
    goodput = Goodput(listener=listener)
    for kind in ("starting", "data_wait", "compiling"):
        with goodput.spending(kind):
            recorder.calls.append(kind)
    goodput.begin_step(7)
    with pytest.raises(OSError), goodput.spending("validating"):
        raise OSError
    listener.close()
    custom = "record_custom_badput_event"
    assert recorder.calls == [
        ("record_job_start_time",),
        ("record_training_preparation_start_time",),
        "starting",
        ("record_training_preparation_end_time",),
        ("record_data_loading_start_time",),
        "data_wait",
        ("record_data_loading_end_time",),
        (f"{custom}_start_time", "compiling"),
        "compiling",
        (f"{custom}_end_time", "compiling"),
        ("record_step_start_time", 7),
        (f"{custom}_start_time", "validating"),
        (f"{custom}_end_time", "validating"),
        ("record_job_end_time",),
        ("flush",),
    ]


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_writes_to_google(monkeypatch, first):
    module = types.ModuleType("goodput")
    made = []
    module.GoodputRecorder = lambda *a, **k: made.append((a, k)) or Recorder()
    monkeypatch.setitem(sys.modules, "ml_goodput_measurement.src.goodput", module)
    monkeypatch.setattr(cloud_goodput, "is_first", lambda: first)
    open_cloud_goodput("pod")
    assert made == [(("pod", "goodput_pod"), {"logging_enabled": first})]


def test_a_missing_package_and_missing_credentials_are_one_line(monkeypatch):
    name = "ml_goodput_measurement.src.goodput"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TrainError, match="pip install ml-goodput-measurement"):
        open_cloud_goodput("pod")

    def refuse(*_, **__):
        raise RuntimeError("no credentials\nwere found")

    module = types.ModuleType("goodput")
    module.GoodputRecorder = refuse
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(TrainError, match=r"no Cloud Logging: no credentials were"):
        open_cloud_goodput("pod")
