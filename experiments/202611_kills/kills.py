"""Kills one process of a run again and again, and looks for a trace of it.

python experiments/202611_kills/kills.py PHOTOS WORK [--processes N] [--kills N] ...

Trains debug on eight simulated devices of two or four processes twice: once
undisturbed, and once with a SIGKILL to a random process at a random moment of each
start, until N of them have struck and the run may end. Every loss and every weight of
the two must then have the same bits. WORK gets both runs; results_PROCESSES.json beside
this file has what each kill did.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent
DEVICES = 8
# All that can be spread is: parameters, experts, validation.
OVERRIDES = {
    "log_every": 1,
    "checkpoint_every": 5,
    "optimizer.warmup_steps": 0,
    "optimizer.decay_steps": 1,
    "mesh.fsdp": 8,
    "expert_boundaries": (0.5,),
    "val.holdout": 0.1,
    "val.crop_size": 32,
    "val.every": 50,
    "val.metrics": ("psnr",),
    "data.workers": 1,
}
# A start is killed after a number of seconds below this, or below half as much again as
# the undisturbed run needed to its tenth step, whichever is less.
LONGEST_START = 180


def start(
    workdir: Path, photos: Path, steps: int, count: int
) -> list[subprocess.Popen]:
    """Starts `count` processes; each writes what it says into a file of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={DEVICES // count}"
    overrides = {**OVERRIDES, "steps": steps, "data.folder": photos}
    processes = []
    for i in range(count):
        command = [
            *(sys.executable, "-m", "linearsr_jax", "train"),
            *("--config", "configs/debug.py", "--workdir", str(workdir)),
            *("--coordinator", f"127.0.0.1:{port}"),
            *("--process", str(i), "--processes", str(count), "--override"),
            *(f"{name}={value}" for name, value in overrides.items()),
        ]
        with _said(workdir, i).open("w") as log:
            processes.append(
                subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "XLA_FLAGS": flags},
                )
            )
    return processes


def _said(workdir: Path, process: int) -> Path:
    return workdir.with_name(f"{workdir.name}_{process}.txt")


def newest(workdir: Path) -> int:
    """Returns the step of the newest checkpoint, 0 if there is none."""
    names = [path.name for path in workdir.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def losses(workdir: Path) -> dict[int, float]:
    """Reads the loss after each step."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # a line that a kill cut off
            continue
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def count_differences(run: Path, whole: Path) -> dict[str, int]:
    """Counts the losses and the weights whose bits differ."""
    found, expected = losses(run), losses(whole)
    steps = found.keys() | expected.keys()
    weights = 0
    for file in sorted((whole / "model").glob("*.safetensors")):
        repeated = load_file(run / "model" / file.name)
        for name, array in load_file(file).items():
            bits, other = (x.view(np.uint32) for x in (array, repeated[name]))
            weights += int(np.count_nonzero(bits != other))
    return {
        "losses": len(steps),
        "losses_that_differ": sum(found.get(s) != expected.get(s) for s in steps),
        "weights_that_differ": weights,
    }


def kill_once(processes: list[subprocess.Popen], workdir: Path, after: float, victim):
    """Kills one process after some seconds and waits for the others.

    Returns:
        What happened, or None if the run ended before.
    """
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            codes = [process.wait() for process in processes]
            if not any(codes):
                return None
            raise RuntimeError(f"ended by themselves: {codes}, see {workdir}_*.txt")
        time.sleep(0.01)
    processes[victim].kill()
    killed = time.monotonic()
    others = [i for i in range(len(processes)) if i != victim]
    ends = []
    for i in others:
        code = processes[i].wait()
        lines = _said(workdir, i).read_text(errors="replace").strip().splitlines()
        ends.append({"exit_code": code, "said_last": lines[-1][:300] if lines else ""})
    waited = time.monotonic() - killed
    assert processes[victim].wait() == -signal.SIGKILL
    return {
        "process": victim,
        "seconds_after_start": round(after, 2),
        "steps_logged": max(losses(workdir), default=0),
        "checkpoint": newest(workdir),
        "others_ended_after_seconds": round(waited, 2),
        "others": ends,
    }


def run_undisturbed(workdir: Path, photos: Path, steps: int, count: int) -> float:
    """Trains to the end; returns the seconds to the tenth step."""
    begun, seconds = time.monotonic(), LONGEST_START
    processes = start(workdir, photos, steps, count)
    while any(process.poll() is None for process in processes):
        if seconds == LONGEST_START and max(losses(workdir), default=0) >= 10:
            seconds = time.monotonic() - begun
        time.sleep(0.2)
    if codes := [x.wait() for x in processes if x.wait()]:
        raise RuntimeError(f"the undisturbed run failed: {codes}, see {workdir}_*.txt")
    return seconds


def main() -> None:
    """Runs both, compares them, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--processes", type=int, choices=(2, 4), default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True)
    whole, run = args.work / "whole", args.work / "run"
    seconds = run_undisturbed(whole, args.photos, args.steps, args.processes)
    longest = min(1.5 * seconds, LONGEST_START)
    print(f"undisturbed: step 10 after {seconds:.0f} s", flush=True)
    rng, kills = random.Random(args.seed), []
    while len(kills) < args.kills:
        after, victim = rng.uniform(0, longest), rng.randrange(args.processes)
        processes = start(run, args.photos, args.steps, args.processes)
        kill = kill_once(processes, run, after, victim)
        if kill is None:
            break
        kills.append(kill)
        print(json.dumps(kill), flush=True)
    else:
        processes = start(run, args.photos, args.steps, args.processes)
        if any(codes := [process.wait() for process in processes]):
            raise RuntimeError(f"the last start failed: {codes}, see {run}_*.txt")
    packages = ("jax", "orbax-checkpoint")
    result = {
        "command": f"kills.py --processes {args.processes} --kills {args.kills} "
        f"--steps {args.steps} --seed {args.seed}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        **count_differences(run, whole),
        "kills": kills,
    }
    (HERE / f"results_{args.processes}.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    print({name: value for name, value in result.items() if name != "kills"})


if __name__ == "__main__":
    main()
