"""Scores everything on everything: outputs, values and times, kept on the disk.

See README.md and run.sh. Each output, value and time is computed once: WORK holds
outputs/SET/METHOD/*.png, scores/SET/METHOD/METRIC.json and seconds/METHOD.json, and
what is there is not made again. Where a folder is half full it goes on.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from methods import BASELINES, Method, find_rivals, parse_model
from render import write_readme
from sets import make_sets

from linearsr_jax.core import image_io
from linearsr_jax.core.images import Image
from linearsr_jax.evaluation.folders import find_folders
from linearsr_jax.evaluation.runner import evaluate
from linearsr_jax.evaluation.tables import ImageScores, summarize, to_json
from linearsr_jax.inference.compilation_cache import enable_compilation_cache

HERE = Path(__file__).parent
# Cheap ones first: a run that is stopped has most of the table.
METRICS = (
    *("psnr", "ssim", "lr_psnr", "grid_energy", "lpips", "niqe"),
    *("dists", "lpips_vgg"),
)
# An image of this side is timed: 128x128 to 512x512.
TIMED_SIDE = 128
TIMED_RUNS = 9


def make_outputs(method: Method, lr: Path, folder: Path) -> None:
    """Upscales the images that have no output yet."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        path
        for path in image_io.find_images(lr)
        if not (folder / f"{path.stem}.png").exists()
    ]
    if not missing:
        return
    upscale = method.load()
    for path in missing:
        output = upscale(image_io.read_image(path).rgb)
        image_io.write_image(folder / f"{path.stem}.png", Image(output))


def score(
    methods: Sequence[Method], metric: str, data: Path, outputs: Path, scores: Path
) -> None:
    """Measures the rows that lack a metric on a set.

    All of them at once: a metric that keeps the true image's features reads them once.

    Args:
        methods: the rows.
        metric: its name in linearsr_jax.metrics.
        data: the set's folder.
        outputs: holds a folder of images for each row's key.
        scores: gets KEY/METRIC.json, {image: value}.
    """
    lacking = [m for m in methods if not (scores / m.key / f"{metric}.json").exists()]
    if not lacking:
        return
    hr, lr = find_folders(data)
    folders = {method.key: outputs / method.key for method in lacking}
    measured = evaluate(folders, [metric], hr=hr, lr=lr).per_image
    for key, rows in measured.items():
        file = scores / key / f"{metric}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {row.image: row.values[metric] for row in rows}
        file.write_text(json.dumps(values, indent=0) + "\n")


def collect(methods: Sequence[Method], scores: Path) -> dict[str, dict]:
    """Averages what is there.

    Returns:
        By row's name: {"n": images, metric: {"mean", "stderr"}}; a metric that has
        not been measured is absent.
    """
    rows = {}
    for method in methods:
        values = {
            metric: json.loads(file.read_text())
            for metric in METRICS
            if (file := scores / method.key / f"{metric}.json").exists()
        }
        if not values:
            continue
        images = next(iter(values.values()))
        per_image = [
            ImageScores(image, {metric: values[metric][image] for metric in values})
            for image in images
        ]
        (summary,) = to_json(summarize({method.name: per_image}))["rows"]
        rows[summary.pop("name")] = summary
    return rows


def time_once(method: Method, file: Path) -> None:
    """Times one image, the median of TIMED_RUNS after one that compiles."""
    if file.exists():
        return
    upscale = method.load()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (TIMED_SIDE, TIMED_SIDE, 3), dtype=np.uint8)
    upscale(image)
    seconds = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        upscale(image)
        seconds.append(time.perf_counter() - start)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps(
            {
                "median": statistics.median(seconds),
                "least": min(seconds),
                "most": max(seconds),
            }
        )
    )


def write_results(methods: Sequence[Method], sets: Sequence[str], work: Path) -> None:
    """Writes results.json, and README.md's tables, from what WORK holds."""
    files = [work / f"seconds/{method.key}.json" for method in methods]
    results = {
        "sets": {name: collect(methods, work / "scores" / name) for name in sets},
        "methods": {
            method.name: {
                "parameters": method.parameters,
                "version": method.version,
                "seconds": json.loads(file.read_text()) if file.exists() else None,
            }
            for method, file in zip(methods, files, strict=True)
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("jax", "numpy", "ncnn")},
        },
        "hardware": "two CPU cores",
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_readme(results, HERE / "README.md")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="holds val/")
    parser.add_argument("--rivals", type=Path, required=True, help="ncnn files")
    parser.add_argument("--work", type=Path, required=True, help="what is kept")
    parser.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        default=METRICS,
        help="measure these only; the table has all that were ever measured",
    )
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(";"),
        help="measure these only, separated by semicolons",
    )
    parser.add_argument(
        "--time", action="store_true", help="time each row too; on idle cores only"
    )
    parser.add_argument("models", nargs="*", metavar="NAME=FOLDER[@STEPS[@FIDELITY]]")
    return parser.parse_args()


def main() -> None:
    """Measures what is missing, then writes results.json and the README's tables."""
    args = parse_arguments()
    enable_compilation_cache()
    methods = [
        *BASELINES,
        *find_rivals(args.rivals, threads=2),
        *(parse_model(text) for text in args.models),
    ]
    sets = make_sets(args.benchmarks, args.photos, args.work)
    for name, data in sets.items():
        for method in methods:
            print(f"{name}: {method.name}", flush=True)
            lr = find_folders(data)[1]
            make_outputs(method, lr, args.work / "outputs" / name / method.key)
    for metric in args.metrics:
        for name, data in sets.items():
            print(f"{name}: {metric}", flush=True)
            outputs, scores = (args.work / x / name for x in ("outputs", "scores"))
            rows = [m for m in methods if not args.rows or m.name in args.rows]
            score(rows, metric, data, outputs, scores)
    for method in methods if args.time else ():
        time_once(method, args.work / "seconds" / f"{method.key}.json")
    write_results(methods, list(sets), args.work)


if __name__ == "__main__":
    main()
