"""A validation that is done again, because its checkpoint was saved before it.

A checkpoint must not wait for the validation of its step. A run that goes on from there
does not know the scores, and takes them from the log. The weights are the same, so the
candidate that they have left stays.
"""

import json
from pathlib import Path

from linearsr_jax.core.files import written_whole
from linearsr_jax.training.record import RunRecord
from linearsr_jax.training.workdir import step_of


def is_validated(record: RunRecord, step: int) -> bool:
    """Tells whether the newest validation of a run is that of a step."""
    return bool(record.validations) and record.validations[-1].step == step


def drop_validation(log: Path, step: int) -> None:
    """Removes the validation of a step from a log, which keeps its other lines.

    Raises:
      OSError: the log cannot be read or written.
    """
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    kept = [
        line
        for line in lines
        if step_of(line) != step or "voters" not in json.loads(line)
    ]
    if len(kept) < len(lines):
        with written_whole(log) as temporary:
            temporary.write_bytes(b"".join(kept))
