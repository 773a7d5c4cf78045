"""Graceful shutdown: preemption notices and Ctrl-C stop training at a checkpoint."""

import os
import signal
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

# Under this key JAX tells all processes of a SIGTERM to one of them.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"


class StopSignal:
    """Records SIGTERM and SIGINT inside a with block instead of ending the process.

    A second signal acts as it would outside, in case the first takes too long.

    A signal that was ignored stays ignored, as SIGINT is in background jobs of a shell.
    Outside the main thread, where Python cannot handle signals, nothing is recorded.

    On several hosts the signal may come to any of them, and all stop after the same
    step. JAX tells them, and listens to SIGTERM itself; SIGINT is passed on to it.

    Attributes:
      requested: whether a signal has arrived at this process.
    """

    requested = False

    def __enter__(self):
        self._previous = {}
        self._is_alone = jax.process_count() == 1
        self._is_counting = False
        numbers = (
            (signal.SIGTERM, signal.SIGINT) if self._is_alone else (signal.SIGINT,)
        )
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, _):
        self.requested = True
        signal.signal(number, self._previous[number])
        if not self._is_alone:
            os.kill(os.getpid(), signal.SIGTERM)

    def is_agreed(self, step: int) -> bool:
        """Tells whether the run ends after this step; ask once in every one."""
        if self._is_alone:
            return self.requested
        # With the number of the step, because Orbax asks with it when it saves, and
        # both move the same counter.
        is_agreed = multihost_utils.reached_preemption_sync_point(step)
        if self._is_counting:
            return is_agreed
        # For a signal that came before the first question JAX has agreed on step 1,
        # which a resumed run never takes; for one that came while the run went back, on
        # a step that is far away again.
        has_come = self.has_come()
        self._is_counting = True
        return has_come or is_agreed

    def has_come(self) -> bool:
        """Tells whether a signal has come to any process; call it on all together.

        For work within a step: `is_agreed` would wait for the next one.
        """
        if self._is_alone:
            return self.requested
        self.forget_steps()
        client = multihost.get_jax_distributed_client()
        try:
            own = bool(client.key_value_try_get(_NOTICE))
        except jax.errors.JaxRuntimeError:  # There is no such key.
            own = False
        # They have not asked at the same moment.
        return bool(np.any(multihost_utils.process_allgather(np.int32(own))))

    def forget_steps(self) -> None:
        """Notes that steps are taken again; call it on all hosts together.

        JAX has agreed on a step beyond all that were taken.
        """
        self._is_counting = False

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
