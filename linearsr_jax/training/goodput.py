"""Counts where the time of a run's process goes: what trains, and what does not."""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from typing import Protocol

from linearsr_jax.esgf.run_log import KINDS, SECONDS


def count_as_lost(
    dropped: Mapping[str, float], kept: Mapping[str, float] | None
) -> dict[str, float]:
    """Makes the times of a process whose last steps will be repeated.

    Args:
      dropped: its last row in the log, of a step that will be repeated.
      kept: its last row of a step that stays; None if there is none.

    Returns:
      The times of `dropped`, where training after `kept` counts as lost.
    """
    times = {name: x for name, x in dropped.items() if name.startswith(SECONDS)}
    times["seconds_lost"] = times.get("seconds_lost", 0.0) + max(
        0.0, _trained_in(times) - _trained_in(kept or {})
    )
    return times


def _trained_in(times: Mapping[str, float]) -> float:
    other = sum(times.get(f"{SECONDS}_{kind}") or 0.0 for kind in KINDS)
    return times.get(SECONDS, 0.0) - other


class Listener(Protocol):
    """A listener that hears of the time as it goes; see `cloud_goodput`."""

    def begin(self, kind: str) -> None:
        """Hears that time of one of KINDS begins."""

    def end(self, kind: str) -> None:
        """Hears that it ends."""

    def begin_step(self, step: int) -> None:
        """Hears that a step begins."""


class Goodput:
    """Seconds by kind since this process began with the run.

    Steps run while Python waits for other things, and a save waits for the step before
    it; such time counts for what Python was in.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        listener: Listener | None = None,
    ):
        """Starts the clock."""
        self._clock, self._start, self._listener = clock, clock(), listener
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._trained_at: dict[int, float] = {}

    @contextlib.contextmanager
    def spending(self, kind: str) -> Generator[None]:
        """Counts the time inside the with block as one of KINDS."""
        start = self._clock()
        if self._listener:
            self._listener.begin(kind)
        try:
            yield
        finally:
            self._spent[kind] += self._clock() - start
            if self._listener:
                self._listener.end(kind)

    def begin_step(self, step: int) -> None:
        """Tells the listener that a step begins."""
        if self._listener:
            self._listener.begin_step(step)

    def note_checkpoint(self, step: int) -> None:
        """Notes that a rewind to this step would lose nothing so far."""
        self._trained_at[step] = self._trained()

    def note_rewind(self, step: int) -> None:
        """Counts what has been trained since the checkpoint of a step as lost."""
        self._spent["lost"] += self._trained() - self._trained_at.get(step, 0.0)

    def _trained(self) -> float:
        return self._clock() - self._start - sum(self._spent.values())

    def report(self) -> dict[str, float]:
        """Returns the seconds, and the share that trained, by names in the log."""
        total = max(self._clock() - self._start, 1e-9)
        rows = {f"{SECONDS}_{kind}": spent for kind, spent in self._spent.items()}
        share = 100 * self._trained() / total
        return {SECONDS: total, **rows, "goodput_percent": share}
