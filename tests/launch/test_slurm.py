"""launch/slurm.sh, with stand-ins for the programs of SLURM."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sh"
# Runs the training, and passes signals on to it as SLURM does. ROOT/code is its exit
# code when it is stopped. While ROOT/waits exists, there is no step yet; if it says
# "fails", there will be none.
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$ROOT/arguments"
touch "$ROOT/called"
while [ -e "$ROOT/waits" ]; do
  grep -qs fails "$ROOT/waits" && [ -e "$ROOT/scancel_calls" ] && exit 1
  sleep 0.02
done
sleep 60 >/dev/null 2>&1 &
trap 'kill $!; exit $(cat "$ROOT/code")' TERM
echo $$ >"$ROOT/tasks"
wait
"""
SCANCEL = """#!/usr/bin/env bash
echo "$*" >>"$ROOT/scancel_calls"
if [ ! -e "$ROOT/tasks" ]; then
  # The step comes after the second try that does not find it.
  [ "$(wc -l <"$ROOT/scancel_calls")" -lt 2 ] || grep -qs fails "$ROOT/waits" ||
    rm -f "$ROOT/waits"
  echo "Kill job error on job step id 7: Invalid job id specified" >&2
  exit 225
fi
echo TERM >>"$ROOT/delivered"
kill "$(cat "$ROOT/tasks")"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$ROOT/scontrol_calls"
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "code").write_text("75\n")
    return tmp_path


@contextlib.contextmanager
def running(root, *overrides, until="tasks", **more):
    """A batch script, from when its tasks run, or from another file of `srun`."""
    environment = {
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "ROOT": str(root),
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "6",
    } | more
    command = ["bash", str(SCRIPT), "config.py", "work dir", *overrides]
    with subprocess.Popen(command, env=environment) as process:
        try:
            deadline = time.monotonic() + 30
            while not (root / until).exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
            process.wait(30)
        finally:
            (root / "waits").unlink(missing_ok=True)
            process.kill()


def requeued(root):
    path = root / "scontrol_calls"
    return path.exists() and path.read_text() == "requeue 7\n"


def signal_tasks(root):
    os.kill(int((root / "tasks").read_text()), signal.SIGTERM)


def test_what_the_tasks_run(root):
    with running(root, "data.folder=/a folder"):
        signal_tasks(root)
    arguments = (root / "arguments").read_text().splitlines()
    assert arguments[arguments.index("linearsr") :] == [
        *("linearsr", "train", "--config", "config.py", "--workdir", "work dir"),
        *("--override", "data.workers=6", "data.folder=/a folder"),
    ]


def test_the_end_of_its_time_saves_and_queues_the_job_again(root):
    with running(root) as process:
        process.send_signal(signal.SIGUSR1)
    assert process.returncode == 75
    assert (root / "scancel_calls").read_text() == "--signal=TERM 7.0\n"
    assert requeued(root)


def test_a_preemption_that_the_tasks_alone_hear_of_queues_the_job_again(root):
    with running(root) as process:
        signal_tasks(root)
    assert process.returncode == 75
    assert requeued(root)


def test_the_user_stops_the_job_for_good(root):
    with running(root) as process:
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 75
    assert (root / "scancel_calls").read_text() == "--signal=TERM 7.0\n"
    assert not requeued(root)


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)]
)
def test_a_signal_before_there_is_a_step_reaches_it_once(root, number, again):
    (root / "waits").touch()
    with running(root, until="called") as process:
        process.send_signal(number)
    assert process.returncode == 75
    calls = (root / "scancel_calls").read_text().splitlines()
    assert len(calls) >= 3 and {*calls} == {"--signal=TERM 7.0"}
    # A second one would end the tasks before they have saved.
    assert (root / "delivered").read_text() == "TERM\n"
    assert requeued(root) == again


def test_a_stopped_job_ends_where_no_step_comes(root):
    (root / "waits").write_text("fails\n")
    with running(root, until="called") as process:
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 1
    assert not requeued(root)


@pytest.mark.parametrize(
    ("code", "restarts", "expected"),
    [
        (0, "0", False),
        (2, "0", False),
        (1, "0", True),
        (1, "5", False),
        (69, "4", True),
        (137, "0", True),
        (75, "9", True),
    ],
)
def test_what_is_queued_again(root, code, restarts, expected):
    (root / "code").write_text(f"{code}\n")
    with running(root, SLURM_RESTART_COUNT=restarts) as process:
        signal_tasks(root)
    assert process.returncode == code
    assert requeued(root) == expected
