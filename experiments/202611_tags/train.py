"""Trains the runs of the comparison, or nano's tags; skips what is finished.

python train.py compare|nano PHOTOS WORKDIR [START]

PHOTOS has train, val and photos.jsonl; START is the model that the comparison goes on
from.
"""

import dataclasses
import json
import random
import sys
from pathlib import Path

from linearsr_jax.config.defaults import default_config
from linearsr_jax.models.presets import PRESETS
from linearsr_jax.training.loop import train_and_evaluate

# As in 202611_recipe, whose pretrained model the comparison starts from.
PRESETS["tiny"] = dataclasses.replace(
    PRESETS["debug"], width=48, depth=3, heads=3, cross_heads=3, stem_widths=(48,) * 3
)
SEEDS = (0, 1, 2)
# What the network is told of a photograph: nothing, its tags, another one's.
ARMS = ("none", "tags", "shuffled")


def shuffle_tags(photos: Path, target: Path) -> Path:
    """The same photographs, each with the tags of another of its folder."""
    if not target.exists():
        target.mkdir(parents=True)
        rows = [json.loads(line) for line in (photos / "photos.jsonl").open()]
        for split in ("train", "val"):
            (target / split).symlink_to((photos / split).resolve())
            group = [row for row in rows if row["file"].startswith(f"{split}/")]
            random.Random(0).shuffle(group)
            tags = [row["tags"] for row in group]
            # Each the next one's: none keeps its own.
            for row, other in zip(group, tags[1:] + tags[:1], strict=True):
                row["tags"] = other
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (target / "photos.jsonl").write_text(lines)
    return target


def make_config(photos: Path, preset: str, steps: int, seed: int, **fields):
    """What all runs have in common."""
    config = default_config()
    config.preset = preset
    config.seed = seed
    config.steps = steps
    config.data.folder = str(photos / "train")
    config.val.folder = str(photos / "val")
    config.val.every = config.checkpoint_every = steps // 4
    config.optimizer.warmup_steps = 50
    config.optimizer.decay_steps = steps // 2
    config.update_from_flattened_dict(fields)
    return config.lock()


def compare(photos: Path, workdir: Path, start: str) -> None:
    """All weights go on, with tags and without, on the same samples."""
    shuffled = shuffle_tags(photos, workdir / "shuffled_photos")
    for seed in SEEDS:
        for arm in ARMS:
            config = make_config(
                shuffled if arm == "shuffled" else photos,
                "tiny",
                1_200,
                seed,
                **{
                    "init_from": start,
                    "scan_unroll": 3,
                    "data.crop_size": 48,
                    "val.crop_size": 96,
                    "condition.kind": "none" if arm == "none" else "tags",
                    "optimizer.learning_rate": 5e-4,
                },
            )
            if not (workdir / f"{arm}_{seed}" / "model").exists():
                train_and_evaluate(config, workdir / f"{arm}_{seed}")


def train_nano(photos: Path, workdir: Path) -> None:
    """Only what tags need: without them the model's answer stays what it is."""
    only = ("tags", "condition", "cross_attention")
    fields = {
        "init_from": "nano",
        "scan_unroll": 4,
        "condition.kind": "tags",
        "optimizer.only": only,
    }
    train_and_evaluate(make_config(photos, "nano", 600, 0, **fields), workdir)


if __name__ == "__main__":
    photos, workdir = map(Path, sys.argv[2:4])
    if sys.argv[1] == "compare":
        compare(photos, workdir / "compare", sys.argv[4])
    else:
        train_nano(photos, workdir / "nano")
