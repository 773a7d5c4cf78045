"""Measures how fast a training run is, and whether it waits for its data."""

import contextlib
import time
from collections.abc import Generator


class Progress:
    """Rates since the last report: examples/s, time left, share of time on data."""

    def __init__(self, start: int, steps: int, batch_size: int):
        """Starts the clock.

        Args:
          start: step that the run starts or resumes at.
          steps: last step of the run.
          batch_size: samples per step.
        """
        self._steps, self._batch_size = steps, batch_size
        self._last_step, self._last_time = start, time.monotonic()
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Generator[None]:
        """Counts the time inside the with block as waiting."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Excludes the time inside the with block from the rates."""
        start = time.monotonic()
        yield
        self._last_time += time.monotonic() - start

    def report(self, step: int) -> dict[str, float]:
        """Computes the rates since the last report, by their names in the log."""
        now = time.monotonic()
        seconds = max(now - self._last_time, 1e-9)
        done = step - self._last_step
        rates = {
            "examples_per_s": done * self._batch_size / seconds,
            "minutes_left": (self._steps - step) * seconds / max(done, 1) / 60,
            "data_wait_percent": 100 * self._waited / seconds,
        }
        self._last_step, self._last_time, self._waited = step, now, 0.0
        return rates
