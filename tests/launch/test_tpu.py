"""launch/tpu.sh, with a gcloud that runs what it is told on this machine."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu.sh"
# Every call is written down; a command for the hosts is run, unless they are gone.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >>"$ROOT/calls"
case "$*" in
  *"queued-resources ssh"*)
    [ -e "$ROOT/gone" ] && exit 255
    for argument in "$@"; do
      case $argument in --command=*) bash -c "${argument#--command=}" || exit ;; esac
    done
    ;;
  *describe*) cat "$ROOT/state" ;;
esac
"""
UV = """#!/usr/bin/env bash
[ "$1" = venv ] || exit 0
mkdir -p "${@: -1}/bin" && cp "$ROOT/linearsr" "${@: -1}/bin"
"""
LINEARSR = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$ROOT/arguments"
echo $$ >"$ROOT/training"
exec sleep 60
"""
# Not the real ones, which would find trainings of others on this machine.
PKILL = """#!/usr/bin/env bash
echo "$*" >"$ROOT/pattern"
kill "$(cat "$ROOT/training")"
"""
PGREP = """#!/usr/bin/env bash
kill -0 "$(cat "$ROOT/training")" 2>/dev/null
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bin").mkdir()
    programs = {"gcloud": GCLOUD, "uv": UV, "pkill": PKILL, "pgrep": PGREP}
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "linearsr").write_text(LINEARSR)
    (tmp_path / "linearsr").chmod(0o755)
    (tmp_path / "shared" / "linearsr_jax").mkdir(parents=True)
    (tmp_path / "state").write_text("ACTIVE\n")
    yield tmp_path
    if (tmp_path / "training").exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((tmp_path / "training").read_text()), signal.SIGKILL)


def launch(root, *arguments, **more):
    environment = {
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "HOME": str(root / "home"),
        "ROOT": str(root),
        "PROJECT": "project",
        "ZONE": "zone",
        "SHARED": str(root / "shared"),
        **more,
    }
    (root / "home").mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,  # less than the training takes
    )


def calls(root):
    return (root / "calls").read_text()


def test_start_returns_while_the_training_runs_and_stop_ends_it(root):
    overrides = ("mesh.fsdp=16", "data.folder=/a folder")
    done = launch(root, "start", "job", "configs/pretrain.py:600m", *overrides)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 30
    while not (root / "training").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (root / "arguments").read_text().splitlines() == [
        *("train", "--config", "configs/pretrain.py:600m"),
        *("--workdir", str(root / "shared/runs/job"), "--override", *overrides),
    ]
    assert "queued-resources create job" in calls(root)
    assert "--node-id=job" in calls(root)

    (root / "calls").unlink()
    done = launch(root, "stop", "job")
    assert done.returncode == 0, done.stderr
    assert "queued-resources delete job" in calls(root)
    # The shell that looks for the training does not find itself.
    pattern = (root / "pattern").read_text().split("-f ")[1].strip()
    assert re.search(pattern, "linearsr train --config x")
    assert not re.search(pattern, calls(root))


def test_a_slice_that_was_taken_away_is_given_back(root):
    (root / "gone").touch()
    done = launch(root, "stop", "job")
    assert done.returncode == 0, done.stderr
    assert "no host answers" in done.stderr
    assert "queued-resources delete job" in calls(root)


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_slice_that_does_not_come_is_not_waited_for(root, state):
    (root / "state").write_text(f"{state}\n")
    done = launch(root, "start", "job", "config.py")
    assert done.returncode == 1
    assert state in done.stderr
    assert " ssh " not in calls(root)


def test_several_slices_train_together(root):
    done = launch(root, "start", "job", "config.py", SLICES="2")
    assert done.returncode == 0, done.stderr
    create, *others = calls(root).splitlines()
    assert "--node-count=2 --node-prefix=job" in create
    assert "--node-id" not in create
    commands = [call for call in others if " ssh " in call]
    assert commands
    assert all("--node=all --worker=all" in call for call in commands)
