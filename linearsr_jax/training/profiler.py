"""Profiles a few training steps, for TensorBoard's profile page or Perfetto."""

import contextlib
import logging
from collections.abc import Generator
from pathlib import Path

import jax

from linearsr_jax.core.array_types import PyTree

logger = logging.getLogger(__name__)


class ProfilerWindow:
    """Traces some steps; none if count is 0.

    Attributes:
      folder: folder to write the trace to.
      first: number of the first step to trace. The first steps of a process show
        little but compilation.
      count: number of steps to trace.
    """

    def __init__(self, folder: Path, first: int, count: int):
        """Creates the window; tracing begins at the first step."""
        self.folder, self.first, self.count = folder, first, count
        self._is_open = False

    @contextlib.contextmanager
    def step(self, step: int) -> Generator[None]:
        """Marks the with block as one training step of the trace."""
        if self.count and step == self.first:
            jax.profiler.start_trace(str(self.folder))
            self._is_open = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def end_step(self, step: int, results: PyTree) -> None:
        """Closes the window after its last step, once the results are ready."""
        if self._is_open and step == self.first + self.count - 1:
            jax.block_until_ready(results)
            self.close()
            logger.info("profile of steps up to %d in %s", step, self.folder)

    def close(self) -> None:
        """Ends a trace that is still open because the run stopped inside its window."""
        if self._is_open:
            self._is_open = False
            jax.profiler.stop_trace()
