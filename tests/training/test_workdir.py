"""The folder of a run: no second run inside, no run that silently begins again."""

import os
import subprocess
import sys

import pytest

from linearsr_jax.training.record import TrainError
from linearsr_jax.training.workdir import check_not_lost, locked

HOLD = """
import sys
from pathlib import Path
from linearsr_jax.training.workdir import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    input()
"""


def test_a_second_run_is_refused_until_the_first_has_died(tmp_path):
    workdir = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, workdir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
    ) as first:
        assert first.stdout.readline() == b"locked\n"
        message = f"run: is in use by process {first.pid} on "
        with pytest.raises(TrainError, match=message), locked(workdir):
            pass
        first.kill()
    with locked(workdir):
        pass


def test_a_log_without_checkpoints_is_not_a_new_run(tmp_path):
    check_not_lost(tmp_path)
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(b'{"step": 3}\n\xff{\n[]\n{"step": 12}\n{"step": 1')
    with pytest.raises(TrainError, match="has the log of 12 steps, and no checkpoints"):
        check_not_lost(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    check_not_lost(tmp_path)
