"""One signal is noted, a second acts, and what was ignored stays ignored."""

import os
import signal

import pytest

from linearsr_jax.training.stop_signal import StopSignal


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
