"""Gathers the runs' scores, the costs and bicubic's scores into results.json.

python experiments/202611_attention/collect.py RUNS BENCHMARKS

Prints them as a table: mean ± standard error over seeds ± over images.
"""

import json
import statistics
import sys
from pathlib import Path

import context
import measure
import variants

from linearsr_jax.evaluation.baselines import BASELINES

RESULTS = Path("experiments/202611_attention/results.json")
PAIRS = (("linear", "none"), ("softmax", "none"), ("linear", "softmax"))


def spread(values: list[float]) -> dict[str, float]:
    """Mean, and standard error where there are two values or more."""
    result = {"mean": statistics.mean(values), "n": len(values)}
    if len(values) > 1:
        result["stderr"] = statistics.stdev(values) / len(values) ** 0.5
    return result


def _less(values: list[float], others: list[float]) -> list[float]:
    """Differences, of as many images as have both."""
    return [a - b for a, b in zip(values, others, strict=False)]


def by_image(scores: dict) -> dict[str, list[float]]:
    """One run's scores under one name each, a value per photograph or image."""
    windows = scores["windows"]
    least, *larger = map(str, (*context.WINDOWS, context.WHOLE))
    named = {f"window {least}, gain": _less(windows[least], windows["bicubic"])}
    for side in larger:
        named[f"window {side} over {least}"] = _less(windows[side], windows[least])
    for margin, rows in scores["foreign"].items():
        for key in ("change", "residual", "psnr_lost"):
            named[f"foreign beyond {margin}, {key}"] = [row[key] for row in rows]
    for name in measure.BENCHMARKS:
        for metric in measure.METRICS:
            named[f"{name}, {metric}"] = scores[name][metric]
    return named


def read_runs(runs: Path) -> dict[str, dict[int, dict[str, list[float]]]]:
    """{variant: {seed: `by_image`}} of the seeds that every variant has finished."""
    found = {
        variant: {
            int(path.parent.name.removeprefix(f"{variant}_")): path
            for path in runs.glob(f"{variant}_*/scores.json")
        }
        for variant in variants.DEPTHS
    }
    seeds = sorted(set.intersection(*(set(paths) for paths in found.values())))
    if not seeds:
        sys.exit(f"{runs}: no seed has scores of all of {', '.join(variants.DEPTHS)}")
    return {
        variant: {
            seed: by_image(json.loads(paths[seed].read_text()))
            | last_losses(paths[seed].parent)
            for seed in seeds
        }
        for variant, paths in found.items()
    }


def last_losses(folder: Path) -> dict[str, list[float]]:
    """The loss since the learning rate began to fall, a value per logged 50 steps."""
    lines = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return {"training loss": [line["loss"] for line in lines if "loss" in line][-5:]}


def summarize(runs: dict) -> dict:
    """Per name: each variant, and the paired differences of two.

    over_seeds takes each seed's mean over the images as one value, over_images each
    image's mean over the seeds.
    """

    def both(values: list[list[float]]) -> dict:
        images = zip(*values, strict=True)
        return {
            "over_seeds": spread([statistics.mean(one) for one in values]),
            "over_images": spread([statistics.mean(one) for one in images]),
        }

    def difference(a: str, b: str, name: str) -> list[list[float]]:
        return [
            [x - y for x, y in zip(runs[a][s][name], runs[b][s][name], strict=True)]
            for s in runs[a]
        ]

    names = next(iter(runs["none"].values()))
    return {
        name: {
            variant: both([numbers[name] for numbers in by_seed.values()])
            for variant, by_seed in runs.items()
        }
        | {f"{a} - {b}": both(difference(a, b, name)) for a, b in PAIRS}
        for name in names
    }


def print_table(summary: dict) -> None:
    """As Markdown: mean, and standard errors over seeds (if there are) and images."""
    columns = list(next(iter(summary.values())))
    print(f"| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, row in summary.items():
        cells = []
        for cell in row.values():
            errors = [
                f"{spread['stderr']:.4f}"
                for spread in cell.values()
                if "stderr" in spread
            ]
            mean = cell["over_seeds"]["mean"]
            cells.append(f"{mean:.4f} ± {' ± '.join(errors)}")
        print(f"| {name} | {' | '.join(cells)} |")


def score_baselines(runs: Path, benchmarks: Path) -> dict:
    """Bicubic's scores, from RUNS/baselines.json if it is there."""
    file = runs / "baselines.json"
    if not file.is_file():
        rows = {
            name: measure.score_benchmark(BASELINES, benchmarks / name, every)
            for name, every in measure.BENCHMARKS.items()
        }
        file.write_text(json.dumps(rows, indent=1) + "\n")
    return {
        f"{name}, {metric}": {
            method: spread(values[metric]) for method, values in methods.items()
        }
        for name, methods in json.loads(file.read_text()).items()
        for metric in measure.METRICS
    }


def main(runs: Path, benchmarks: Path) -> None:
    """Writes RESULTS."""
    numbers = read_runs(runs)
    config = json.loads((runs / "linear_0" / "config.json").read_text())
    config["data"]["folder"] = ""
    model = json.loads((runs / "linear_0" / "model" / "config.json").read_text())
    costs = runs / "costs.json"
    results = {
        "hardware": "one of 2 CPU cores, shared with other work",
        "config": config,
        "versions": model["training"]["versions"],
        "held_out": model["training"]["held_out"],
        "costs": json.loads(costs.read_text()),
        "baselines": score_baselines(runs, benchmarks),
        "summary": summarize(numbers),
        "runs": numbers,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print_table(results["summary"])
    print(json.dumps(results["baselines"], indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
