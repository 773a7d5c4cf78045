"""One signal is noted, a second acts, and what was ignored stays ignored."""

import os
import signal

import pytest

from linearsr_jax.training.stop_signal import StopSignal
from tests.processes_testing import running_together


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    """A signal with Python's own handler, whatever this process was started with."""
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


def test_the_first_is_noted_and_the_second_acts(number):
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.default_int_handler


def test_what_was_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with StopSignal() as stop:
        os.kill(os.getpid(), number)
        assert not stop.requested
    assert signal.getsignal(number) is signal.SIG_IGN


def run_both(code):
    """Runs a program as two processes, and returns the last line of each."""
    with running_together(code, 2) as both:
        texts = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    # What Gloo says comes first.
    return [out.splitlines()[-1] for out, _ in texts]


def test_a_signal_before_the_first_step_of_a_resumed_run_is_not_lost():
    code = """
import os, signal, sys, time
from linearsr_jax.training.hosts import connected
from linearsr_jax.training.stop_signal import StopSignal
address, process = sys.argv[1], int(sys.argv[2])
with connected(address, process, 2), StopSignal() as stop:
    if process == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    # Long enough for JAX to agree on a step; the run is still compiling.
    while not stop.has_come():
        time.sleep(0.2)
    time.sleep(1)
    print(stop.is_agreed(501))
"""
    assert run_both(code) == ["True", "True"]


def test_processes_that_ask_together_hear_of_it_together():
    code = """
import os, signal, sys, time
from linearsr_jax.training.hosts import connected
from linearsr_jax.training.stop_signal import StopSignal
address, process = sys.argv[1], int(sys.argv[2])
with connected(address, process, 2), StopSignal() as stop:
    assert not stop.has_come()
    if process == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    asked = 1
    while not stop.has_come():
        asked += 1
        time.sleep(0.2 * process)
    print(asked)
"""
    counts = run_both(code)
    assert counts[0] == counts[1]
