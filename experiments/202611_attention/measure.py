"""Scores one finished run; a run that has its scores is left as it is.

python experiments/202611_attention/measure.py VARIANT SEED PHOTOS BENCHMARKS RUNS
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import context
import variants

from linearsr_jax.core.scale import SCALE
from linearsr_jax.data.sources import open_source
from linearsr_jax.evaluation.folders import find_folders, match_images
from linearsr_jax.evaluation.runner import evaluate
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.pretrained import model_folder
from linearsr_jax.training.validation import degrade_fixed

METRICS = ("psnr", "ssim", "lpips")
# Data set -> every how many-th of its images, by name.
BENCHMARKS = {"Set5": 1, "RealSR": 25}


def open_pairs(photos: Path, held_out: list[str]) -> list:
    """(HR, LR) centre crops of the photographs that no run has trained on.

    Those of val/ come first.

    Args:
      photos: holds train/ and val/.
      held_out: names in train/.

    Returns:
      uint8 pairs; LR is degraded by LIGHT, always in the same way.
    """
    side = SCALE * context.WHOLE
    images = []
    for folder in ("val", "train"):
        source = open_source(photos / folder, min_size=side, cache_bytes=0)
        for number, name in enumerate(source.manifest.files):
            if folder == "val" or name in held_out:
                images.append(source[number])
    pairs = []
    for number, image in enumerate(images):
        top, left = ((length - side) // 2 for length in image.shape[:2])
        crop = image[top : top + side, left : left + side]
        pairs.append((crop, degrade_fixed(crop, number, "light")))
    return pairs


def score_benchmark(methods: dict, data: Path, every: int) -> dict:
    """{method: {metric: a value per image}}."""
    folders = dict(zip(("hr", "lr"), find_folders(data), strict=True))
    chosen = match_images(list(folders.values()))[::every]
    with tempfile.TemporaryDirectory() as scratch:
        for kind, folder in folders.items():
            links = Path(scratch) / kind
            links.mkdir()
            for files in chosen:
                file = files[folder].resolve()
                (links / file.name).symlink_to(file)
            folders[kind] = links
        rows = evaluate(methods, METRICS, **folders).per_image
    return {
        name: {metric: [row.values[metric] for row in per_image] for metric in METRICS}
        for name, per_image in rows.items()
    }


def main(variant: str, seed: int, photos: Path, benchmarks: Path, runs: Path) -> None:
    """Writes RUNS/VARIANT_SEED/scores.json."""
    folder = runs / f"{variant}_{seed}"
    out = folder / "scores.json"
    if out.is_file():
        print(f"{out}: is there")
        return
    with variants.attending(variant):
        model = model_folder.load_pretrained(folder / "model")
        upscaler = Upscaler(model)
        predict = context.make_predict(model)
        pairs = open_pairs(photos, model.training["held_out"])
        scores = {"photographs": len(pairs)}
        for name, measure in (
            ("windows", context.measure_windows),
            ("foreign", context.measure_foreign),
        ):
            start = time.perf_counter()
            scores[name] = measure(predict, pairs)
            print(f"{folder}: {name}: {time.perf_counter() - start:.0f} s", flush=True)
        methods = {"model": lambda image: upscaler(image, steps=1)}
        for name, every in BENCHMARKS.items():
            start = time.perf_counter()
            rows = score_benchmark(methods, benchmarks / name, every)
            scores[name] = rows["model"]
            print(f"{folder}: {name}: {time.perf_counter() - start:.0f} s", flush=True)
    out.write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:]))
