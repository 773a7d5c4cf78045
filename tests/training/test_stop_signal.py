"""One signal is noted, a second acts."""

import os
import signal

import pytest

from linearsr_jax.training.stop_signal import StopSignal


def test_the_first_is_noted_and_the_second_acts():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
