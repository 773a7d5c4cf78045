"""Scores the trained candidates, and writes their values and README.md's table of them.

python experiments/202611_size/score.py RUNS [--results sizes] SET=FOLDER ...

A SET is a folder with HR and LR inside. The values go to results.json, or to the other
name's file.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from candidates import CANDIDATES, WITHOUT_ATTENTION, as_candidate

from linearsr_jax import Upscaler
from linearsr_jax.evaluation.runner import evaluate
from linearsr_jax.evaluation.tables import summarize, to_json
from linearsr_jax.pretrained.model_folder import load_pretrained

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: from {}.json -->", "<!-- end of table -->"


def count_parameters(name: str, params: dict) -> int:
    """Counts what an image takes: no table of tags, and no attention that is unused."""
    unused = ["'tags'"] + ["'attention'"] * (name == WITHOUT_ATTENTION)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(
        weights.size
        for path, weights in leaves
        if not any(part in jax.tree_util.keystr(path) for part in unused)
    )


def measure(name: str, folder: Path, sets: dict[str, Path]) -> dict:
    """Scores one model on all sets, and times it on 128x128 pixels."""
    upscaler = Upscaler.from_pretrained(str(folder))
    params = load_pretrained(str(folder)).experts[0]
    image_lr = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    spent = []
    for _ in range(6):  # the first one compiles
        start = time.process_time()
        upscaler(image_lr)
        spent.append(time.process_time() - start)
    row = {
        "parameters": count_parameters(name, params),
        "cpu_seconds": statistics.median(spent[1:]),
        "sets": {},
    }
    for key, data in sets.items():
        scores = evaluate(
            {"sr": upscaler}, ["psnr", "lpips"], hr=data / "HR", lr=data / "LR"
        )
        (row["sets"][key],) = to_json(summarize(scores.per_image))["rows"]
    return row


def make_table(results: dict[str, dict]) -> str:
    """Lays the results out in Markdown."""
    sets = next(iter(results.values()))["sets"]
    heads = [
        "",
        "parameters",
        "steps",
        "CPU s, 128x128",
        *(f"{s}: PSNR / LPIPS" for s in sets),
    ]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " --: |" * (len(heads) - 1)]
    for name, row in results.items():
        cells = [
            name,
            f"{row['parameters']:,}",
            str(row["steps"]),
            f"{row['cpu_seconds']:.2f}",
        ]
        cells += [
            f"{x['psnr']['mean']:.2f} / {x['lpips']['mean']:.4f}"
            for x in row["sets"].values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Scores what is there; a candidate that has its values already stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--results", default="results", metavar="NAME")
    parser.add_argument("sets", nargs="+", metavar="SET=FOLDER")
    args = parser.parse_args()
    sets = {
        name: Path(place) for name, _, place in (s.partition("=") for s in args.sets)
    }
    file = HERE / f"{args.results}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in CANDIDATES:
        workdir = args.runs / name.replace(" ", "_")
        if name in results or not (workdir / "model/config.json").exists():
            continue
        with as_candidate(name):
            row = measure(name, workdir / "model", sets)
        config = json.loads((workdir / "config.json").read_text())
        row["steps"] = config.get("config", config)["steps"]
        results[name] = row
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)
    readme, begin = HERE / "README.md", BEGIN.format(args.results)
    head, _, rest = readme.read_text().partition(begin)
    table = f"{begin}\n\n{make_table(results)}\n\n{END}"
    readme.write_text(head + table + rest.partition(END)[2])


if __name__ == "__main__":
    main()
