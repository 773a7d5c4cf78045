"""Reads evaluation curves: CSV files and the metrics.jsonl of a training folder."""

import csv
import dataclasses
import json
import math
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

# Whether a metric's better values are the higher or the lower ones.
HIGHER = ("psnr", "ssim", "musiq", "maniqa", "clipiqa")
LOWER = ("lpips", "dists", "niqe", "fid", "loss")

# In a training log: what validations write, less what says the same twice.
_VALIDATION = "val_"
_DUPLICATE = "val_gain_"
_LOG_NAME = "metrics.jsonl"


class CurveError(ValueError):
    """A file that holds no usable curve; one line, names file and line."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Evaluations of a run.

    Attributes:
      steps: rising.
      metrics: values at these steps; NaN where one is missing or not finite.
      higher_is_better: for each metric.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    higher_is_better: dict[str, bool]


def read_curve(path: Path, *, lower: Collection[str] = (), higher=()) -> Curve:
    """Reads a CSV, or the validations of a training folder.

    A CSV has the header `step,<metric>,...`. An empty cell is an evaluation of that
    metric that did not take place; a row of them is left out, whereas `nan` and `inf`
    are values that a run gave. Rows may stand in any order.

    Whether lower is better follows from the parts of a metric's name: those of
    `val_lpips_light` say lpips, which is in LOWER.

    Args:
      path: a .csv file, a folder with metrics.jsonl, or a .jsonl file.
      lower: names of metrics whose lower values are better, whatever their parts say.
      higher: the opposite.

    Raises:
      OSError: path cannot be read.
      CurveError: no steps, no metrics, text among the numbers, a step twice, or a
        metric of unknown direction.
    """
    if path.is_dir():
        path = path / _LOG_NAME
    rows = _log_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    table = {}
    for line, step, values in rows:
        if step in table:
            raise CurveError(f"{path}: line {line}: step {step} stands there twice")
        table[step] = values
    if not table:
        raise CurveError(f"{path}: has no evaluations")
    names = list(dict.fromkeys(name for values in table.values() for name in values))

    steps = sorted(table)
    return Curve(
        steps=np.array(steps),
        metrics={
            name: np.array([table[step].get(name, math.nan) for step in steps])
            for name in names
        },
        higher_is_better={
            name: _is_higher_better(name, path, lower, higher) for name in names
        },
    )
