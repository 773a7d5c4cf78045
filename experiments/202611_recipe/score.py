"""Computes means and standard errors over the seeds from the logs of the runs.

python score.py WORKDIR RESULTS.json
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log, rising steps."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def mean_and_error(values: list[float]) -> list[float]:
    """[mean, standard error] rounded; the error is 0 for one value."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return [round(float(np.mean(values)), 4), round(float(error), 4)]


def last_validation(log: list[dict]) -> dict[str, float]:
    """Scores of the averaged weights."""
    scores = [row for row in log if "val_psnr_bicubic" in row][-1]
    return {
        name: value
        for name, value in scores.items()
        if name.startswith("val_") and not name.endswith("_raw")
    }


def summarize(folders: dict[str, list[Path]]) -> dict[str, dict]:
    """{name: {quantity: [mean, standard error]}} over each name's runs."""
    table = {}
    for name, runs in folders.items():
        quantities = defaultdict(list)
        for folder in runs:
            log = read_log(folder)
            steps = [row for row in log if "skipped" in row]
            for key, value in last_validation(log).items():
                quantities[key].append(value)
            quantities["loss, last fifth"].append(
                np.mean([row["loss"] for row in steps[-max(len(steps) // 5, 1) :]])
            )
            sharpness = [row["sharpness"] for row in log if "sharpness" in row]
            if sharpness:
                quantities["sharpness"].append(np.median(sharpness))
            quantities["skipped steps"].append(
                sum(row["skipped"] for row in steps) / len(steps)
            )
            training = json.loads((folder / "model" / "config.json").read_text())
            quantities["rewinds"].append(len(training["training"]["rewinds"]))
        table[name] = {k: mean_and_error(v) for k, v in quantities.items()}
        table[name]["runs"] = len(runs)
    return table


def curves(folders: dict[str, list[Path]], quantities: tuple[str, ...]) -> dict:
    """{name: {"steps": [...], quantity: [[mean, standard error], ...]}}."""
    table = {}
    for name, runs in folders.items():
        logs = [
            [row for row in read_log(folder) if quantities[0] in row] for folder in runs
        ]
        table[name] = {"steps": [row["step"] for row in logs[0]]}
        for quantity in quantities:
            values = [[row[quantity] for row in log] for log in logs]
            table[name][quantity] = [
                mean_and_error(list(at_step)) for at_step in zip(*values, strict=True)
            ]
    return table


def group(workdir: Path, prefix: str) -> dict[str, list[Path]]:
    """Finished runs PREFIX_NAME_SEED by their names."""
    groups = defaultdict(list)
    for folder in sorted(workdir.glob(f"{prefix}_*")):
        if (folder / "model").exists():
            groups[folder.name[len(prefix) + 1 :].rpartition("_")[0]].append(folder)
    return groups


def pretraining(folder: Path) -> dict:
    """The curve, thinned, and what esgf said of it at the end."""
    log = [row for row in read_log(folder) if "val_psnr_bicubic" in row]
    names = ("val_psnr_light", "val_lpips_light", "val_psnr_light_raw", "sharpness")
    verdict = json.loads((folder / "knee.json").read_text())
    return {
        "verdict": {k: v for k, v in verdict.items() if k != "metrics"},
        "steps": [row["step"] for row in log],
        **{name: [round(row.get(name, 0.0), 4) for row in log] for name in names},
    }


if __name__ == "__main__":
    workdir, output = map(Path, sys.argv[1:])
    results = {
        "knee": {
            "pretraining": pretraining(workdir / "knee" / "pretrain"),
            "tuned": summarize(group(workdir / "knee", "tune")),
            "curves": curves(
                group(workdir / "knee", "tune"),
                ("val_psnr_standard", "val_lpips_standard"),
            ),
        },
        "experts": {
            "pretraining": last_validation(read_log(workdir / "experts" / "pretrain")),
            "continued": summarize(group(workdir / "experts", "experts")),
        },
    }
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["knee"]["tuned"], indent=1))
    print(json.dumps(results["experts"], indent=1))
