"""Writes the tables of README.md from results.json.

python experiments/202611_picture_table/render.py
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linearsr_jax.metrics import METRICS

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables: from results.json -->", "<!-- end of tables -->"

# By metric: heading and decimals.
COLUMNS = {
    "psnr": ("PSNR-Y", 2),
    "ssim": ("SSIM-Y", 4),
    "lpips": ("LPIPS-Alex", 4),
    "lpips_vgg": ("LPIPS-VGG", 4),
    "dists": ("DISTS", 4),
    "niqe": ("NIQE", 2),
    "lr_psnr": ("LR-PSNR", 1),
    "grid_energy": ("grid", 3),
}


def write_readme(results: Mapping[str, Any], path: Path) -> None:
    """Replaces what is between BEGIN and END.

    Raises:
        ValueError: the file does not hold the two lines.
    """
    text = path.read_text("utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{path}: must hold the lines {BEGIN!r} and {END!r}")
    tables = f"{BEGIN}\n\n{render(results)}\n\n{END}"
    path.write_text(pattern.sub(lambda _: tables, text), "utf-8")


def render(results: Mapping[str, Any]) -> str:
    """Sets one table of methods, then one for each set, in Markdown."""
    parts = [_methods_table(results["methods"])]
    for name, rows in results["sets"].items():
        if rows:
            count = max(row["n"] for row in rows.values())
            parts.append(f"### {name}, {count} images\n\n{_set_table(rows)}")
    return "\n\n".join(parts)


def _methods_table(methods: Mapping[str, Any]) -> str:
    lines = ["| method | parameters | s for 128x128 |", "| --- | --: | --: |"]
    for name, method in methods.items():
        count, seconds = method["parameters"], method["seconds"]
        parameters = f"{count / 1e6:.2f} M" if count else "–"
        cell = f"{seconds['median']:.3f}" if seconds else "–"
        lines.append(f"| {name} | {parameters} | {cell} |")
    return "\n".join(lines)


def _set_table(rows: Mapping[str, Any]) -> str:
    shown = [metric for metric in COLUMNS if any(metric in r for r in rows.values())]
    best = {metric: _best(metric, rows) for metric in shown}
    heads = [
        f"{COLUMNS[metric][0]} {'↑' if METRICS[metric].higher_is_better else '↓'}"
        for metric in shown
    ]
    lines = [
        f"| method | {' | '.join(heads)} |",
        f"| --- | {' | '.join('--:' for _ in heads)} |",
    ]
    for name, row in rows.items():
        cells = [_cell(metric, row, is_best=name == best[metric]) for metric in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _best(metric: str, rows: Mapping[str, Any]) -> str:
    means = {n: r[metric]["mean"] for n, r in rows.items() if metric in r}
    choose = max if METRICS[metric].higher_is_better else min
    return choose(means, key=lambda name: means[name])


def _cell(metric: str, row: Mapping[str, Any], *, is_best: bool) -> str:
    if metric not in row:
        return "–"
    decimals = COLUMNS[metric][1]
    mean = f"{row[metric]['mean']:.{decimals}f}"
    error = f"{row[metric]['stderr']:.{decimals}f}"
    return f"**{mean}** ± {error}" if is_best else f"{mean} ± {error}"


if __name__ == "__main__":
    write_readme(json.loads((HERE / "results.json").read_text()), HERE / "README.md")
