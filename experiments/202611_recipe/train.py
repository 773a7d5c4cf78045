"""Trains the runs of one part, one after another; skips what is finished.

python train.py knee|experts PHOTOS WORKDIR
"""

import dataclasses
import shutil
import sys
from pathlib import Path

from linearsr_jax.config.defaults import default_config
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES, uniform_boundaries
from linearsr_jax.models.presets import PRESETS
from linearsr_jax.training.loop import train_and_evaluate

# Between debug and nano: 187,000 parameters.
PRESETS["tiny"] = dataclasses.replace(
    PRESETS["debug"], width=48, depth=3, heads=3, cross_heads=3, stem_widths=(48,) * 3
)
SEEDS = (0, 1, 2)
BOUNDARIES = {
    "1": (),
    "2": EXPERT_BOUNDARIES[1:2],
    "4": EXPERT_BOUNDARIES,
    "4_uniform": uniform_boundaries(4),
}
# Steps of all experts together.
EXPERT_STEPS = 3_200


def make_config(photos: Path, preset: str, steps: int, every: int, seed: int, **fields):
    """What all runs have in common."""
    config = default_config()
    config.preset = preset
    config.seed = seed
    config.steps = steps
    config.scan_unroll = 3
    config.data.folder = str(photos / "train")
    config.data.crop_size = 48
    config.data.degradations.update(bicubic=0.5, light=0.5, standard=0.0, camera=0.0)
    config.val.folder = str(photos / "val")
    config.val.crop_size = 96
    config.val.every = config.checkpoint_every = every
    config.esgf.candidates = 100
    config.optimizer.warmup_steps = 100
    config.optimizer.descent = "constant"
    config.optimizer.decay_steps = 0
    config.update_from_flattened_dict(fields)
    return config.lock()


def train_knee(photos: Path, workdir: Path) -> None:
    """Part (a): far past the knee, then the next stage from the knee and from the end.

    The next stage has worse degradations, a new optimiser and the same learning rate.
    """
    small = {
        "data.crop_size": 32,
        "optimizer.learning_rate": 2e-3,
        "esgf.sharpness_every": 1,
    }
    config = make_config(photos, "debug", 30_000, 500, 0, **small)
    starts = {name: workdir / "starts" / name for name in ("knee", "last")}
    if not starts["knee"].exists():
        esgf = train_and_evaluate(config, workdir / "pretrain").esgf
        model = workdir / "pretrain" / "model"
        shutil.copytree(model, starts["last"], dirs_exist_ok=True)
        with config.unlocked():
            config.esgf.knee_step = esgf["found"]["knee_step"] or KNEE_BY_HAND
        train_and_evaluate(config, workdir / "pretrain")
        shutil.copytree(model, starts["knee"])
    fields = {
        "data.degradations.light": 0.0,
        "data.degradations.standard": 0.5,
        "esgf.sharpness_every": 5,
    } | small
    for seed in SEEDS:
        for name, start in starts.items():
            folder = workdir / f"tune_{name}_{seed}"
            config = make_config(
                photos, "debug", 2_000, 200, seed, init_from=str(start), **fields
            )
            if not (folder / "model").exists():
                train_and_evaluate(config, folder)


# If esgf finds none: set after looking at the curves.
KNEE_BY_HAND = 0


def train_experts(photos: Path, workdir: Path) -> None:
    """Part (b): continued pretraining, as many samples whatever the experts."""
    pretrain = workdir / "pretrain"
    if not (pretrain / "model").exists():
        config = make_config(photos, "tiny", 12_000, 300, 0)
        train_and_evaluate(config, pretrain)
    for seed in SEEDS:
        for name, boundaries in BOUNDARIES.items():
            folder = workdir / f"experts_{name}_{seed}"
            steps = EXPERT_STEPS // (len(boundaries) + 1)
            fields = {
                "expert_boundaries": boundaries,
                "init_from": str(pretrain / "model"),
                "val.steps": 4,
                "optimizer.learning_rate": 5e-4,
                "optimizer.warmup_steps": 50,
                "optimizer.descent": "linear",
                "optimizer.decay_steps": steps // 4,
            }
            config = make_config(photos, "tiny", steps, steps // 2, seed, **fields)
            if not (folder / "model").exists():
                train_and_evaluate(config, folder)


if __name__ == "__main__":
    part, photos, workdir = sys.argv[1], *map(Path, sys.argv[2:])
    {"knee": train_knee, "experts": train_experts}[part](photos, workdir / part)
