"""Gathers the runs' scores, the costs and bicubic's scores into results.json.

python experiments/202611_attention/collect.py RUNS BENCHMARKS

Prints the tables of the README. All ± are standard errors over seeds.
"""

import json
import statistics
import sys
from pathlib import Path

import measure
import variants

from linearsr_jax import evaluate

RESULTS = Path("experiments/202611_attention/results.json")


def spread(values: list[float]) -> dict[str, float]:
    """Mean, and standard error where there are two values or more."""
    result = {"mean": statistics.mean(values), "seeds": len(values)}
    if len(values) > 1:
        result["stderr"] = statistics.stdev(values) / len(values) ** 0.5
    return result


def flatten(scores: dict) -> dict[str, float]:
    """One run's scores as numbers: means over its photographs."""
    flat = {}
    plain = scores["windows"]["bicubic"]
    for side, values in scores["windows"].items():
        if side != "bicubic":
            flat[f"window {side}, gain"] = statistics.mean(values) - statistics.mean(
                plain
            )
    for margin, rows in scores["foreign"].items():
        for key in ("change", "residual", "psnr_lost"):
            flat[f"foreign beyond {margin}, {key}"] = statistics.mean(
                row[key] for row in rows
            )
    for name in measure.BENCHMARKS:
        for metric in measure.METRICS:
            flat[f"{name}, {metric}"] = scores[name][metric]
    return flat


def read_runs(runs: Path) -> dict[str, dict[int, dict[str, float]]]:
    """{variant: {seed: its numbers}} of the seeds that every variant has finished."""
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
            seed: flatten(json.loads(paths[seed].read_text()))
            | last_validation(paths[seed].parent)
            for seed in seeds
        }
        for variant, paths in found.items()
    }


def last_validation(folder: Path) -> dict[str, float]:
    """The loss of the last logged steps and the last validation."""
    lines = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    (scores,) = [line for line in lines if "val_gain_light" in line]
    gains = {k: v for k, v in scores.items() if k.startswith("val_gain")}
    return {"training loss": statistics.mean(losses[-4:])} | gains


def summarize(runs: dict) -> dict:
    """{number: {variant: spread, "linear - none": spread of the paired difference}}."""
    names = next(iter(runs["none"].values()))
    pairs = (("linear", "none"), ("softmax", "none"), ("linear", "softmax"))
    return {
        name: {
            variant: spread([numbers[name] for numbers in by_seed.values()])
            for variant, by_seed in runs.items()
        }
        | {
            f"{a} - {b}": spread(
                [runs[a][seed][name] - runs[b][seed][name] for seed in runs[a]]
            )
            for a, b in pairs
        }
        for name in names
    }


def print_table(summary: dict) -> None:
    """As Markdown."""
    columns = list(next(iter(summary.values())))
    print(f"| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, row in summary.items():
        cells = [
            f"{cell['mean']:.4f} ± {cell.get('stderr', float('nan')):.4f}"
            for cell in row.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")


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
        "baselines": {
            name: measure.score_benchmark(evaluate.BASELINES, benchmarks / name, every)
            for name, every in measure.BENCHMARKS.items()
        },
        "summary": summarize(numbers),
        "runs": numbers,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print_table(results["summary"])
    print(json.dumps(results["baselines"], indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
