"""Which steps a profile holds; the trace itself is JAX's."""

import os
import signal

import jax
import pytest

from linearsr_jax.training.profiler import ON_SIGNAL, ProfilerWindow


@pytest.fixture
def calls(monkeypatch):
    calls = []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda f: calls.append(("start", f))
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def run(window, steps, calls, signals=()):
    for step in steps:
        if step in signals:
            os.kill(os.getpid(), signal.SIGUSR2)
        with window.step(step):
            calls.append(step)
        window.end_step(step, {})
    window.close()


def test_the_window_is_traced(tmp_path, calls):
    run(ProfilerWindow(tmp_path, 3, 2), range(1, 7), calls)
    assert calls == [1, 2, ("start", str(tmp_path)), 3, 4, "stop", 5, 6]


def test_a_run_that_ends_inside_it_closes_the_trace(tmp_path, calls):
    run(ProfilerWindow(tmp_path, 2, 9), range(1, 3), calls)
    assert calls == [1, ("start", str(tmp_path)), 2, "stop"]


def test_no_steps_no_trace(tmp_path, calls):
    run(ProfilerWindow(tmp_path, 1, 0), range(1, 4), calls)
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("count", [0, 2])
def test_a_signal_traces_the_next_steps(tmp_path, calls, count):
    before = signal.getsignal(signal.SIGUSR2)
    # The second signal comes while a trace is open, which the next one follows.
    run(ProfilerWindow(tmp_path, 1000, count), range(1, 21), calls, signals=(3, 4))
    start, length = ("start", str(tmp_path)), count or ON_SIGNAL
    first, second = range(3, 3 + length), range(3 + length, 3 + 2 * length)
    rest = range(3 + 2 * length, 21)
    assert calls == [1, 2, start, *first, "stop", start, *second, "stop", *rest]
    assert signal.getsignal(signal.SIGUSR2) == before
