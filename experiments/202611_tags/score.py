"""Scores models with the right tags, another photograph's, the light tagger's and none.

python score.py PHOTOS WORKDIR RESULTS.json

Fixed centre crops of the validation photographs, fixed degradations, fixed noise.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import train

from linearsr_jax.core import image_io
from linearsr_jax.evaluation.baselines import bicubic
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.metrics import get_metrics
from linearsr_jax.pretrained.model_folder import load_pretrained
from linearsr_jax.tagging import load_tagger
from linearsr_jax.training.validation import degrade_fixed

SIDE = 192
STEPS = (1, 4)


def read_photos(photos: Path) -> list[tuple[np.ndarray, list[str]]]:
    """Crops and tags of the validation photographs."""
    found = []
    for line in (photos / "photos.jsonl").open():
        row = json.loads(line)
        if row["file"].startswith("val/"):
            image = image_io.read_image(photos / row["file"]).rgb
            top, left = ((side - SIDE) // 2 for side in image.shape[:2])
            found.append((image[top : top + SIDE, left : left + SIDE], row["tags"]))
    return found


def score(model: Path, right: list, wrong: list) -> dict[str, list[float]]:
    """{"tags, steps, metric, degradation": a value for each photograph}."""
    upscaler = Upscaler(load_pretrained(model))
    takes_tags = "tags" in upscaler.model.training
    told = {"none": lambda number, lr: ()}
    if takes_tags:
        tagger = load_tagger("light")
        told |= {
            "right": lambda number, lr: right[number][1],
            "wrong": lambda number, lr: wrong[number][1],
            "light": lambda number, lr: [tag for tag, _ in tagger(lr)],
        }
    metrics = {metric.name: metric.load() for metric in get_metrics(["psnr", "lpips"])}
    values: dict[str, list[float]] = {}
    for number, (image_hr, _) in enumerate(right):
        for degradation in ("bicubic", "light"):
            lr = degrade_fixed(image_hr, number, degradation)
            outputs = {"bicubic": bicubic(lr)}
            for name, find_tags in told.items():
                tags = find_tags(number, lr)
                for steps in STEPS:
                    image = upscaler(lr, steps=steps, seed=0, tags=tags)
                    outputs[f"{name}, {steps} steps"] = image
            for name, image in outputs.items():
                for metric, function in metrics.items():
                    key = f"{name}, {metric}, {degradation}"
                    values.setdefault(key, []).append(function(image, image_hr))
    return values


def summarize(runs: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Mean over photographs and seeds, and its standard error over seeds."""
    table = {}
    for key in runs[0]:
        means = [np.mean(run[key]) for run in runs]
        error = np.std(means, ddof=1) / len(means) ** 0.5 if len(means) > 1 else 0.0
        table[key] = [round(float(np.mean(means)), 4), round(float(error), 4)]
    return table


def compare_told(runs: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Tags less other tags or none: mean, and standard error over photographs.

    Of each photograph the mean over the seeds.
    """
    table = {}
    for one, other in (("right", "wrong"), ("right", "none"), ("light", "none")):
        for key in runs[0]:
            if key.startswith(f"{one},"):
                less = key.replace(one, other, 1)
                differences = np.mean(
                    [np.subtract(run[key], run[less]) for run in runs], axis=0
                )
                error = np.std(differences, ddof=1) / len(differences) ** 0.5
                table[f"{key}, less {other}"] = [
                    round(float(np.mean(differences)), 4),
                    round(float(error), 4),
                ]
    return table


def main(photos: Path, workdir: Path, output: Path) -> None:
    """Scores what is there of nano and of the comparison."""
    right = read_photos(photos)
    wrong = read_photos(train.shuffle_tags(photos, workdir / "shuffled_photos"))
    results = {}
    if (workdir / "nano" / "model").exists():
        runs = [score(workdir / "nano" / "model", right, wrong)]
        results["nano"] = {"scores": summarize(runs), "differences": compare_told(runs)}
    for arm in train.ARMS:
        folders = sorted((workdir / "compare").glob(f"{arm}_*/model"))
        if folders:
            runs = [score(folder, right, wrong) for folder in folders]
            results[arm] = {"seeds": len(runs), "scores": summarize(runs)}
            if arm != "none":
                results[arm]["differences"] = compare_told(runs)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    # Which tags the training photographs lack was said once.
    logging.disable()
    main(*map(Path, sys.argv[1:]))
