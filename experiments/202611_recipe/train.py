"""Trains every run of this experiment, one after another; skips what is finished.

python train.py PHOTOS WORKDIR
"""

import dataclasses
import shutil
import sys
from pathlib import Path

from linearsr_jax.default_config import default_config
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES, uniform_boundaries
from linearsr_jax.models.presets import PRESETS
from linearsr_jax.train import train_and_evaluate

# Between debug and nano: 187,000 parameters.
PRESETS["tiny"] = dataclasses.replace(
    PRESETS["debug"], width=48, depth=3, heads=3, cross_heads=3, stem_widths=(48,) * 3
)
SEEDS = (0, 1, 2)
PRETRAIN_STEPS, TUNE_STEPS, EXPERT_STEPS = 12_000, 2_000, 3_200
BOUNDARIES = {
    "1": (),
    "2": EXPERT_BOUNDARIES[1:2],
    "4": EXPERT_BOUNDARIES,
    "4_uniform": uniform_boundaries(4),
}


def make_config(photos: Path, steps: int, every: int, seed: int, **fields):
    """What all runs have in common."""
    config = default_config()
    config.preset = "tiny"
    config.seed = seed
    config.steps = steps
    config.scan_unroll = 3
    config.batch_size = 8
    config.data.folder = str(photos / "train")
    config.data.crop_size = 48
    config.val.folder = str(photos / "val")
    config.val.crop_size = 96
    config.val.every = config.checkpoint_every = every
    config.esgf.sharpness_every = 1
    config.esgf.candidates = 48
    config.optimizer.warmup_steps = 100
    config.optimizer.descent = "constant"
    config.optimizer.decay_steps = 0
    config.update_from_flattened_dict(fields)
    return config.lock()


def pretrain(photos: Path, folder: Path) -> None:
    """Far past the knee; leaves the models knee/ and last/ of the same run."""
    if (folder / "knee").exists():
        return
    config = make_config(photos, PRETRAIN_STEPS, every=300, seed=0)
    esgf = train_and_evaluate(config, folder / "run").esgf
    shutil.copytree(folder / "run" / "model", folder / "last", dirs_exist_ok=True)
    with config.unlocked():
        config.esgf.knee_step = esgf["found"]["knee_step"]
    train_and_evaluate(config, folder / "run")
    shutil.copytree(folder / "run" / "model", folder / "knee")


def tune(photos: Path, start: Path, folder: Path, seed: int) -> None:
    """The next stage: worse degradations, a new optimiser, the same learning rate."""
    if (folder / "model").exists():
        return
    fields = {"data.degradation": "standard", "init_from": str(start)}
    train_and_evaluate(make_config(photos, TUNE_STEPS, 200, seed, **fields), folder)


def train_experts(photos: Path, start: Path, folder: Path, name: str, seed: int):
    """Continued pretraining, the same number of samples whatever the experts."""
    if (folder / "model").exists():
        return
    boundaries = BOUNDARIES[name]
    steps = EXPERT_STEPS // (len(boundaries) + 1)
    fields = {
        "expert_boundaries": boundaries,
        "init_from": str(start),
        "val.steps": 4,
        "esgf.sharpness_every": 0,
        "optimizer.learning_rate": 5e-4,
        "optimizer.warmup_steps": 50,
        "optimizer.descent": "linear",
        "optimizer.decay_steps": steps // 4,
    }
    config = make_config(photos, steps, steps // 2, seed, **fields)
    train_and_evaluate(config, folder)


if __name__ == "__main__":
    photos, workdir = map(Path, sys.argv[1:])
    pretrain(photos, workdir / "pretrain")
    knee, last = workdir / "pretrain" / "knee", workdir / "pretrain" / "last"
    for seed in SEEDS:
        for start in (knee, last):
            tune(photos, start, workdir / f"tune_{start.name}_{seed}", seed)
        for name in BOUNDARIES:
            train_experts(photos, knee, workdir / f"experts_{name}_{seed}", name, seed)
