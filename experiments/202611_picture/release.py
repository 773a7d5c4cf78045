"""Makes nano's slider from three models.

python experiments/202611_picture/release.py START MEAN PERCEPTUAL PHOTOS.jsonl OUT \
    --low 0.15 --high 0.72 --default-fidelity 0.9

Fidelity 0 lies on the line from START's fidelity 0 to MEAN. Fidelity 1 lies on the line
from the middle of these two to PERCEPTUAL. README.md says why the ends are not the
models themselves.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.pretrained.model_folder import (
    PretrainedModel,
    load_pretrained,
    save_model,
)

HERE = Path(__file__).parent


def point(flow: PyTree, perceptual: PyTree, place: float) -> PyTree:
    """Interpolates from a model to one that may have more residual blocks.

    A block's last convolution was zero when it was added, so there the line starts at
    zero. Its first one had no influence then, and is the perceptual model's.

    Args:
      flow: parameters at 0; blocks may be missing.
      perceptual: parameters at 1.
      place: in [0, 1].
    """
    start = traverse_util.flatten_dict(flow)
    mixed = {}
    for path, end in traverse_util.flatten_dict(perceptual).items():
        if path not in start and not path[-1].endswith("_1"):
            mixed[path] = end
            continue
        before = start.get(path, np.zeros_like(end))
        mixed[path] = before + np.float32(place) * (end - before)
    return traverse_util.unflatten_dict(mixed)


def release(
    start: str,
    mean: str,
    perceptual: str,
    photos: Path,
    output: Path,
    *,
    low: float,
    high: float,
    default_fidelity: float,
) -> None:
    """Writes a model folder with both sets of weights, card and credits.

    Args:
      start, mean, perceptual: model folders or names of bundled models, each trained
        from the one before.
      photos: photos.jsonl of the photographs, with their licences.
      output: model folder to write.
      low, high: places on the two lines of fidelity 0 and 1.
      default_fidelity: where the slider stands if nobody moves it.
    """
    first, middle, end = map(load_pretrained, (start, mean, perceptual))
    (of_start,) = first.mean_experts or first.experts
    halfway = point(of_start, middle.experts[0], 0.5)
    write(
        output,
        low=point(of_start, middle.experts[0], low),
        high=point(halfway, end.experts[0], high),
        end=end,
        photos=photos,
        slider={"low": low, "high": high},
        default_fidelity=default_fidelity,
    )


def write(
    output: Path,
    *,
    low: PyTree,
    high: PyTree,
    end: PretrainedModel,
    photos: Path,
    slider: Mapping[str, Any],
    default_fidelity: float,
) -> None:
    """Writes a model folder with two sets of weights, card and credits.

    Args:
      output: model folder to write.
      low, high: parameters at fidelity 0 and 1.
      end: what was trained last, for its record.
      photos: photos.jsonl of the photographs, with their licences.
      slider: where low and high come from.
      default_fidelity: where the slider stands if nobody moves it.
    """
    licences = {}
    for line in photos.read_text().splitlines():
        photo = json.loads(line)
        if photo["file"].startswith("train/"):
            licences[Path(photo["file"]).name] = photo["licence"]
    names = sorted(licences)
    credits = [f"- {name}: {licences[name]}" for name in names]
    heading = f"## The {len(credits)} photographs"
    card = "\n".join([(HERE / "card.md").read_text(), heading, *credits, ""])
    whole = dataclasses.replace(
        end,
        experts=(high,),
        mean_experts=(low,),
        training=end.training | {"files": names, "slider": dict(slider)},
        default_fidelity=default_fidelity,
    )
    save_model(output, whole, card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (
        # Bundled models go by name, which a Path would make a folder.
        ("start", str),
        ("mean", str),
        ("perceptual", str),
        ("photos", Path),
        ("output", Path),
    ):
        parser.add_argument(name, type=kind)
    for name in ("low", "high", "default-fidelity"):
        parser.add_argument(f"--{name}", type=float, required=True)
    arguments = parser.parse_args()
    release(**vars(arguments))
