"""Which steps a profile holds; the trace itself is JAX's."""

import jax
import pytest

from linearsr_jax.training.profiler import ProfilerWindow


@pytest.fixture
def calls(monkeypatch):
    calls = []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda f: calls.append(("start", f))
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def run(window, steps, calls):
    for step in steps:
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
