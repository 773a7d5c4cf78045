"""Trains the candidates, each for the same CPU time; finished runs stay as they are.

python experiments/202611_size/train.py PHOTOS RUNS CPU_SECONDS [NAME ...]

First all candidates' steps are timed, which decides how many each gets; RUNS/steps.json
keeps that. Then each is trained; started again it goes on.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

from candidates import CANDIDATES, as_candidate
from ml_collections import ConfigDict

from configs import nano
from linearsr_jax.inference.compilation_cache import enable_compilation_cache
from linearsr_jax.training.loop import train_and_evaluate

WARMUP = 100
# Steps of two runs: what the longer one takes more is the time of their difference.
FEW, MANY = 4, 16


def make_config(name: str, photos: Path, steps: int, warmup: int) -> ConfigDict:
    """Makes nano's perceptual stage from scratch, without the adversary.

    The learning rate is held, so that a longer run does the same steps: averaging the
    weights stands in for a decay.
    """
    config = nano.get_config("perceptual")
    config.preset = f"size_{name}"
    config.scan_unroll = CANDIDATES[name].depth
    config.loss.adversarial = 0.0
    config.optimizer.warmup_steps = warmup
    config.optimizer.descent = "constant"
    config.optimizer.decay_steps = 0
    config.optimizer.ema_decay = 0.995
    config.data.folder = str(photos)
    config.steps = steps
    config.log_every = 50
    return config.lock()


def measure_step(name: str, photos: Path) -> float:
    """Measures the CPU seconds of a training step, all threads together."""
    spent = []
    for steps in (FEW, FEW, MANY):  # the first one compiles
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            train_and_evaluate(make_config(name, photos, steps, FEW), folder)
            spent.append(time.process_time() - start)
    return (spent[2] - spent[1]) / (MANY - FEW)


def main() -> None:
    """Trains, or goes on, to the last step that fits the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("cpu_seconds", type=float)
    parser.add_argument("names", nargs="*", default=list(CANDIDATES))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    enable_compilation_cache()
    args.runs.mkdir(parents=True, exist_ok=True)
    file = args.runs / "steps.json"
    if not file.exists():
        seconds = {}
        for name in args.names:
            with as_candidate(name):
                seconds[name] = measure_step(name, args.photos)
        file.write_text(json.dumps(seconds, indent=1) + "\n")
    seconds = json.loads(file.read_text())
    for name in args.names:
        workdir = args.runs / name.replace(" ", "_")
        if (workdir / "model" / "config.json").is_file():
            continue
        steps = int(args.cpu_seconds / seconds[name])
        with as_candidate(name):
            config = make_config(name, args.photos, steps, WARMUP)
            result = train_and_evaluate(config, workdir)
        if not result.is_finished:
            sys.exit(f"{workdir}: stopped")


if __name__ == "__main__":
    main()
