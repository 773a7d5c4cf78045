"""Trains one variant with one seed; a finished run is left as it is.

python experiments/202611_attention/train.py VARIANT SEED PHOTOS RUNS [field=value ...]
"""

import logging
import sys
from pathlib import Path

import variants
from ml_collections import ConfigDict

from linearsr_jax.config.defaults import default_config
from linearsr_jax.config.loading import apply_overrides
from linearsr_jax.training.loop import train_and_evaluate


def make_config(variant: str, seed: int, photos: Path) -> ConfigDict:
    """The same for all variants but for the preset, and so the loop over depth."""
    config = default_config()
    config.preset = variants.preset_name(variant)
    config.scan_unroll = variants.DEPTHS[variant]  # faster on CPU
    config.seed = seed
    config.steps = 500
    config.mass_at_one = 1.0  # all of the little time there is for one step
    config.data.folder = str(photos)
    config.val.holdout = 0.1
    config.val.every = config.steps
    config.val.metrics = ("psnr",)
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 250
    config.checkpoint_every = 100
    config.keep_checkpoints = 1
    config.log_every = 50
    return config.lock()


def main(variant: str, seed: int, photos: Path, runs: Path, overrides: list) -> None:
    """Trains, or goes on, to the last step."""
    workdir = runs / f"{variant}_{seed}"
    if (workdir / "model" / "config.json").is_file():
        print(f"{workdir}: is finished")
        return
    config = make_config(variant, seed, photos)
    apply_overrides(config, overrides)
    with variants.attending(variant):
        result = train_and_evaluate(config, workdir)
    if not result.is_finished:
        sys.exit(f"{workdir}: stopped")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(
        sys.argv[1],
        int(sys.argv[2]),
        Path(sys.argv[3]),
        Path(sys.argv[4]),
        sys.argv[5:],
    )
