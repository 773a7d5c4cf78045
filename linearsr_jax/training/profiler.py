"""Profiles a few training steps, for TensorBoard's profile page or Perfetto.

SIGUSR2 profiles the next steps of a run, on the host that gets it.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Generator
from pathlib import Path

import jax

from linearsr_jax.core.array_types import PyTree

logger = logging.getLogger(__name__)


# Steps that a signal traces where the config does not say how many.
ON_SIGNAL = 5


class ProfilerWindow:
    """Traces some steps; none if count is 0. And after SIGUSR2, the next ones.

    Outside the main thread, where Python cannot handle signals, none come.

    Attributes:
      folder: folder to write the trace to.
      first: number of the first step to trace. The first steps of a process show
        little but compilation.
      count: number of steps to trace.
    """

    def __init__(self, folder: Path, first: int, count: int):
        """Creates the window; tracing begins at the first step."""
        self.folder, self.first, self.count = folder, first, count
        self._is_open = self._is_asked = False
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGUSR2, self._ask)

    def _ask(self, *_):
        self._is_asked = True

    @contextlib.contextmanager
    def step(self, step: int) -> Generator[None]:
        """Marks the with block as one training step of the trace."""
        if self._is_asked and not self._is_open:
            self._is_asked = False
            self.first, self.count = step, self.count or ON_SIGNAL
        if self.count and step == self.first:
            jax.profiler.start_trace(str(self.folder))
            self._is_open = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def end_step(self, step: int, results: PyTree) -> None:
        """Closes the window after its last step, once the results are ready."""
        if self._is_open and step == self.first + self.count - 1:
            jax.block_until_ready(results)
            self._stop()
            logger.info("profile of steps up to %d in %s", step, self.folder)

    def _stop(self) -> None:
        if self._is_open:
            self._is_open = False
            jax.profiler.stop_trace()

    def close(self) -> None:
        """Ends a trace that is still open because the run stopped inside its window."""
        self._stop()
        if self._previous is not None:
            signal.signal(signal.SIGUSR2, self._previous)
