"""launch/tpu.sh, with a gcloud that runs what it is told on this machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu.sh"
# Every call is written down; a command for the hosts is run, unless they are gone.
# "unreached" is what gcloud does if it could not prepare the nodes: it warns, connects
# to nobody and ends with 0. "states" has lines that `describe` prints first, one a
# call; at "?" it fails.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >>"$ROOT/calls"
case "$*" in
  *"queued-resources ssh"*)
    [ -e "$ROOT/next_state" ] && mv "$ROOT/next_state" "$ROOT/state"
    [ -e "$ROOT/gone" ] && exit 255
    [ -e "$ROOT/unreached" ] && exit 0
    for argument in "$@"; do
      case $argument in --command=*) bash -c "${argument#--command=}" || exit ;; esac
    done
    ;;
  *"tpu-vm describe"*) cat "$ROOT/addresses-$5" 2>/dev/null || echo 10.0.0.1 ;;
  *describe*)
    if [ -s "$ROOT/states" ]; then
      now=$(head -n 1 "$ROOT/states") && sed -i 1d "$ROOT/states"
      [ "$now" != "?" ] && echo "$now"
      exit
    fi
    [ ! -e "$ROOT/no_state" ] && cat "$ROOT/state"
    ;;
esac
"""
UV = """#!/usr/bin/env bash
echo "$0 $*" >>"$ROOT/uv_calls"
[ "$1" = venv ] || exit 0
mkdir -p "${@: -1}/bin" && cp "$ROOT/linearsr" "${@: -1}/bin"
"""
# The installer puts uv where the real one does.
CURL = """#!/usr/bin/env bash
echo 'mkdir -p ~/.local/bin && cp "$ROOT/uv" ~/.local/bin' >"${@: -1}"
"""
LINEARSR = """#!/usr/bin/env bash
echo "a line of the training"
printf '%s\\n' "$@" >"$ROOT/arguments"
echo "$JAX_COMPILATION_CACHE_DIR" >"$ROOT/programs"
sleep 60 >/dev/null 2>&1 &
trap 'kill $!; exit $(cat "$ROOT/code")' TERM
echo "$PPID" >"$ROOT/shell"
echo $$ >"$ROOT/training"
wait
"""
# Not the real ones, which would find trainings of others on this machine. The real
# pkill also finds the shell that the training runs in.
PKILL = """#!/usr/bin/env bash
echo "$*" >"$ROOT/pattern"
[ -e "$ROOT/not_permitted" ] && exit 1
kill "$(cat "$ROOT/shell")" "$(cat "$ROOT/training")"
"""
PGREP = """#!/usr/bin/env bash
kill -0 "$(cat "$ROOT/shell")" 2>/dev/null
"""
MOUNTPOINT = """#!/usr/bin/env bash
[ -e "$ROOT/mounted" ]
"""
SUDO = """#!/usr/bin/env bash
echo "$*" >>"$ROOT/sudo_calls"
case $1 in
  apt-get) ;;
  mount) cp -r "$ROOT/exported/." "${@: -1}" && touch "$ROOT/mounted" ;;
  *) "$@" ;;
esac
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bin").mkdir()
    programs = {
        "bin/gcloud": GCLOUD,
        "bin/curl": CURL,
        "bin/pkill": PKILL,
        "bin/pgrep": PGREP,
        "bin/mountpoint": MOUNTPOINT,
        "bin/sudo": SUDO,
        "uv": UV,
        "linearsr": LINEARSR,
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "shared" / "linearsr_jax").mkdir(parents=True)
    (tmp_path / "state").write_text("ACTIVE\n")
    (tmp_path / "code").write_text("75\n")
    yield tmp_path
    for name in ("training", "shell"):
        if (tmp_path / name).exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)


def launch(root, *arguments, stderr=subprocess.PIPE, **more):
    environment = {
        "PATH": f"{root / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(root / "home"),
        "ROOT": str(root),
        "PROJECT": "project",
        "ZONE": "zone",
        "SHARED": str(root / "shared"),
        "PAUSE": "0",
        **more,
    }
    (root / "home").mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=50,  # less than the training takes
    )


def calls(root):
    return (root / "calls").read_text()


def wait_for(*paths):
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(root, *overrides, **more):
    """Starts a training and returns when it runs."""
    done = launch(root, "start", "job", "configs/pretrain.py:600m", *overrides, **more)
    assert done.returncode == 0, done.stderr
    wait_for(root / "training")
    return done


def run_file(root, suffix):
    return root / "shared" / "runs" / f"job.{socket.gethostname()}.{suffix}"


def test_start_returns_while_the_training_runs_and_stop_ends_it(root):
    overrides = ("mesh.fsdp=16", "data.folder=/a folder")
    start(root, *overrides)
    assert (root / "arguments").read_text().splitlines() == [
        *("train", "--config", "configs/pretrain.py:600m"),
        *("--workdir", str(root / "shared/runs/job")),
        *("--override", "data.workers=32", *overrides),
    ]
    assert (root / "programs").read_text().strip() == str(root / "shared/programs")
    assert "queued-resources create job" in calls(root)
    assert "--node-id=job" in calls(root)

    (root / "calls").unlink()
    done = launch(root, "stop", "job")
    assert done.returncode == 0, done.stderr
    assert "stopped and saved" in done.stderr
    assert "queued-resources delete job" in calls(root)
    assert run_file(root, "exit").read_text().strip() == "75"
    # The shell that looks for the training does not find itself.
    pattern = (root / "pattern").read_text().split("-f ")[1].strip()
    assert re.search(pattern, "linearsr train --config x")
    assert not re.search(pattern, calls(root))


def test_what_start_says_can_go_to_a_file(root):
    with (root / "said").open("w") as said:
        said.write("before\n")
        said.flush()
        start(root, stderr=said)
    lines = (root / "said").read_text().splitlines()
    assert lines[0] == "before"
    assert "linearsr: started" in lines


def test_resume_appends_to_the_log(root):
    start(root)
    launch(root, "stop", "job")
    (root / "training").unlink()
    done = launch(root, "resume", "job", "config.py")
    assert done.returncode == 0, done.stderr
    wait_for(root / "training")
    assert "queued-resources create" not in calls(root).split("delete job")[1]
    assert run_file(root, "txt").read_text().count("a line of the training") == 2
    # The exit code is that of the new training, which has none yet.
    assert not run_file(root, "exit").exists()


def test_a_training_is_not_started_beside_another(root):
    start(root)
    done = launch(root, "resume", "job", "config.py")
    assert done.returncode == 1
    assert "stop it first" in done.stderr


def test_a_finished_run_gives_its_slices_back(root):
    (root / "code").write_text("0\n")
    start(root)
    os.kill(int((root / "training").read_text()), signal.SIGTERM)
    wait_for(run_file(root, "exit"))
    done = launch(root, "stop", "job")
    assert done.returncode == 0, done.stderr
    assert "the run is finished" in done.stderr
    assert "queued-resources delete job" in calls(root)


@pytest.mark.parametrize(
    "why", ["unreached", "gone", "not_permitted", "failed", "no log"]
)
def test_stop_keeps_slices_whose_run_may_be_unsaved(root, why):
    if why == "failed":
        (root / "code").write_text("1\n")
    elif why != "no log":
        (root / why).touch()
    if why in ("failed", "not_permitted"):
        start(root)
    done = launch(root, "stop", "job")
    assert done.returncode == 1
    assert "delete" not in calls(root)
    assert "not given back" in done.stderr and "FORCE=1" in done.stderr
    assert ("exit code 1" in done.stderr) == (why == "failed")
    assert ("cannot stop" in done.stderr) == (why == "not_permitted")

    done = launch(root, "stop", "job", FORCE="1")
    assert done.returncode == 0, done.stderr
    assert "queued-resources delete job" in calls(root)


def test_stop_keeps_slices_whose_state_is_unknown(root):
    (root / "no_state").touch()
    assert launch(root, "stop", "job", FORCE="1").returncode != 0
    assert "delete" not in calls(root)


@pytest.mark.parametrize(
    "state",
    [
        *("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"),
        *("FAILED", "SUSPENDED"),
    ],
)
def test_slices_without_hosts_are_given_back(root, state):
    (root / "state").write_text(f"{state}\n")
    (root / "gone").touch()
    done = launch(root, "stop", "job")
    assert done.returncode == 0, done.stderr
    assert state in done.stderr
    assert "queued-resources delete job" in calls(root)


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDING", "SUSPENDED"])
def test_slices_that_are_taken_away_meanwhile_are_given_back(root, state):
    (root / "gone").touch()
    (root / "next_state").write_text(f"{state}\n")
    done = launch(root, "stop", "job")
    assert done.returncode == 0, done.stderr
    assert f"{state}, and nothing says that the run was saved" in done.stderr
    assert "queued-resources delete job" in calls(root)


def test_slices_that_are_being_taken_away_save_first(root):
    start(root)
    (root / "state").write_text("SUSPENDING\n")
    done = launch(root, "stop", "job")
    assert done.returncode == 0, done.stderr
    assert "stopped and saved" in done.stderr
    assert "queued-resources delete job" in calls(root)


@pytest.mark.parametrize("why", ["unreached", "gone"])
@pytest.mark.parametrize("action", ["start", "resume"])
def test_hosts_that_do_not_answer_are_noticed(root, action, why):
    (root / why).touch()
    done = launch(root, action, "job", "config.py")
    assert done.returncode == 1
    assert "0 of 1 hosts answer" in done.stderr


def test_a_part_of_the_hosts_does_not_train(root):
    (root / "addresses-job").write_text("10.0.0.1;10.0.0.2;10.0.0.3;10.0.0.4\n")
    done = launch(root, "start", "job", "config.py")
    assert done.returncode == 1
    assert "1 of 4 hosts answer" in done.stderr
    assert not (root / "arguments").exists()
    (root / "addresses-job").write_text("")
    done = launch(root, "resume", "job", "config.py")
    assert "nothing says how many hosts there are" in done.stderr


def test_a_host_without_the_repository_is_noticed(root):
    (root / "shared" / "linearsr_jax").rmdir()
    done = launch(root, "start", "job", "config.py")
    assert done.returncode == 1
    assert "0 of 1 hosts are ready" in done.stderr


def test_the_shared_folder_is_mounted_where_it_is_not(root):
    (root / "shared").rename(root / "exported")
    start(root, MOUNT="10.0.0.2:/share")
    sudo_calls = (root / "sudo_calls").read_text().splitlines()
    assert sudo_calls[-2:] == [
        f"mkdir -p {root}/shared",
        f"mount -t nfs 10.0.0.2:/share {root}/shared",
    ]
    launch(root, "stop", "job")
    (root / "training").unlink()
    start(root, MOUNT="10.0.0.2:/share")
    assert (root / "sudo_calls").read_text().splitlines() == sudo_calls


def test_uv_is_installed_once_and_called_by_its_path(root):
    start(root)
    uv = f"{root}/home/.local/bin/uv"
    uv_calls = (root / "uv_calls").read_text().splitlines()
    assert [call.split()[:2] for call in uv_calls] == [[uv, "venv"], [uv, "pip"]]
    launch(root, "stop", "job")
    (root / "bin" / "curl").write_text("exit 1\n")
    (root / "training").unlink()
    start(root)


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDING", "SUSPENDED"])
def test_a_slice_that_does_not_come_is_not_waited_for(root, state):
    (root / "state").write_text(f"{state}\n")
    done = launch(root, "start", "job", "config.py")
    assert done.returncode == 1
    assert state in done.stderr
    assert " ssh " not in calls(root)


def test_a_state_that_stays_unknown_ends_the_wait(root):
    (root / "no_state").touch()
    done = launch(root, "start", "job", "config.py")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "failed to tell the state" in line and "watch job says" in line
    assert calls(root).count("queued-resources describe") == 5


def test_a_state_that_is_unknown_for_a_while_does_not_end_the_wait(root):
    unknown = "?\n" * 4
    (root / "states").write_text(f"{unknown}WAITING_FOR_RESOURCES\n{unknown}")
    start(root)
    assert (root / "states").read_text() == ""


def test_several_slices_train_together(root):
    # The stand-in has one host for both.
    (root / "addresses-job-1").write_text("")
    start(root, SLICES="2", SPOT="1", CREATE_FLAGS="--reserved --network=mine")
    create, *others = calls(root).splitlines()
    assert "--node-count=2 --node-prefix=job --spot" in create
    assert create.endswith("--reserved --network=mine")
    assert "--node-id" not in create
    commands = [call for call in others if " ssh " in call]
    assert commands
    assert all("--node=all --worker=all" in call for call in commands)
