"""Trains both sliders from the same weights, for the same number of steps.

python experiments/202612_conditioned/train.py PHOTOS RUNS STEPS mixed|conditioned

Both start at nano's fidelity 0. "mixed" trains a sharp end for a slider of mixed
weights, "conditioned" a network that reads the fidelity. Started again it goes on.
"""

import argparse
import contextlib
import dataclasses
import logging
import sys
from pathlib import Path

from conditioned import conditioned

from configs import nano
from linearsr_jax.inference.compilation_cache import enable_compilation_cache
from linearsr_jax.pretrained.model_folder import load_pretrained, save_model
from linearsr_jax.training.loop import train_and_evaluate


def write_start(folder: Path) -> None:
    """Writes nano's fidelity 0 as a model of its own."""
    if folder.exists():
        return
    model = load_pretrained("nano")
    start = dataclasses.replace(
        model, experts=model.mean_experts, mean_experts=None, default_fidelity=None
    )
    save_model(folder, start, "nano's fidelity 0\n")


def main() -> None:
    """Trains, or goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("way", choices=("mixed", "conditioned"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    enable_compilation_cache()
    start = args.runs / "start"
    write_start(start)
    config = nano.get_config("judges")
    config.init_from = str(start)
    config.data.folder = str(args.photos)
    config.steps = args.steps
    config.optimizer.warmup_steps = args.steps // 20
    config.optimizer.decay_steps = args.steps // 2
    config.log_every = 25
    with conditioned() if args.way == "conditioned" else contextlib.nullcontext():
        result = train_and_evaluate(config.lock(), args.runs / args.way)
    if not result.is_finished:
        sys.exit(f"{args.runs / args.way}: stopped")


if __name__ == "__main__":
    main()
