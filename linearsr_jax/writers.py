"""Where training's numbers go: the log and a JSON-lines file.

Method names are clu's MetricWriter's; clu's own writers need TensorFlow.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any, Protocol

import jax

logger = logging.getLogger(__name__)


class MetricWriter(Protocol):
    """What the training loop calls."""

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Records named numbers of a step."""
        ...

    def close(self) -> None:
        """Flushes and ends."""
        ...


class JsonLinesWriter:
    """Appends one JSON object a call: {"step": ..., name: value, ...}.

    Non-finite numbers are written as null, which strict readers can parse. A run
    that resumes drops the lines of steps it is about to repeat.
    """

    def __init__(self, path: Path, resume_step: int):
        """Opens path for steps after resume_step."""
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line + "\n")
                except (json.JSONDecodeError, KeyError):
                    continue  # the line a killed run was writing
        self._file = path.open("w")
        self._file.writelines(kept)
        self._file.flush()

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """See `MetricWriter`."""
        row: dict[str, Any] = {"step": step}
        for name, value in scalars.items():
            row[name] = float(value) if math.isfinite(value) else None
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `MetricWriter`."""
        self._file.close()


class LogWriter:
    """One line of the log a call."""

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """See `MetricWriter`."""
        text = "  ".join(f"{name} {value:.5g}" for name, value in scalars.items())
        logger.info("step %d  %s", step, text)

    def close(self) -> None:
        """See `MetricWriter`."""


class ManyWriters:
    """Hands every call on to several writers."""

    def __init__(self, *members: MetricWriter):
        """Keeps the writers, which close with this one."""
        self._members = members

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.write_scalars(step, scalars)

    def close(self) -> None:
        """See `MetricWriter`."""
        for writer in self._members:
            writer.close()


def make_writer(workdir: Path, *, resume_step: int) -> MetricWriter:
    """The log, and on the first process workdir/metrics.jsonl."""
    if jax.process_index() != 0:
        return LogWriter()
    path = workdir / "metrics.jsonl"
    return ManyWriters(LogWriter(), JsonLinesWriter(path, resume_step))
