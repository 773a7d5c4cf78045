"""Reads evaluation curves: CSV files and the metrics.jsonl of a training folder."""

import csv
import dataclasses
import io
import json
import math
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

# Metrics whose higher, or lower, values are better.
HIGHER = ("psnr", "ssim", "musiq", "maniqa", "clipiqa")
LOWER = ("lpips", "dists", "niqe", "fid", "loss")

_LOG_NAME = "metrics.jsonl"
# Of what a training log has: what validations write, less what only repeats the PSNR.
_VALIDATION = "val_"
_REPEATS = "val_gain_"

# From here on whole numbers are not exact as floats.
_STEP_LIMIT = 2**53

# Line number, step, and the values of an evaluation.
Row = tuple[int, int, dict[str, float]]


class CurveError(ValueError):
    """A file without a usable curve; one line that names the file and its line."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The evaluations of a run.

    Attributes:
      steps: rising.
      metrics: values at these steps; NaN where one is missing.
      higher_is_better: for each metric.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    higher_is_better: dict[str, bool]


def read_curve(
    path: Path, *, lower: Collection[str] = (), higher: Collection[str] = ()
) -> Curve:
    """Reads a CSV, or the validations of a training folder.

    A CSV has the header `step,<metric>,...`; rows may stand in any order. An empty cell
    is an evaluation of that metric that did not take place, and a row of them is left
    out; `nan` and `inf` are what a run did give.

    Which values are better follows from the parts of a metric's name: those of
    `val_lpips_light` say lpips, which is in LOWER.

    Args:
      path: a CSV, a folder with metrics.jsonl, or such a file itself.
      lower: metrics whose lower values are better, whatever their names say.
      higher: the opposite.

    Raises:
      OSError: path cannot be read.
      CurveError: it has no steps, no metrics, text among the numbers, a step twice, or
        a metric of which nobody says what is better.
    """
    if path.is_dir():
        if not (path / _LOG_NAME).exists():
            raise CurveError(f"{path}: is no training folder, it has no {_LOG_NAME}")
        path = path / _LOG_NAME
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CurveError(f"{path}: is not a text file") from error
    read = _read_log if path.suffix == ".jsonl" else _read_csv
    names, rows = read(path, text)
    both = set(lower) & set(higher)
    absent = (set(lower) | set(higher)) - set(names)
    if both or absent:
        fault = (
            "is in both --lower and --higher; leave it in one"
            if both
            else f"is no metric; there are {', '.join(names)}"
        )
        raise CurveError(f"{path}: {min(both or absent)!r} {fault}")
    table: dict[int, dict[str, float]] = {}
    for line, step, values in rows:
        if step in table:
            raise CurveError(f"{path}: line {line}: step {step} stands there twice")
        table[step] = values
    is_higher = {name: _is_higher_better(name, lower, higher) for name in names}
    for name in names:
        if is_higher[name] is None:
            raise CurveError(
                f"{path}: {name!r}: are higher or lower values better? "
                f"--lower {name} or --higher {name}"
            )
    return _make_curve(table, is_higher)


def curve_of(
    evaluations: Sequence[Mapping[str, float | None]],
    *,
    lower: Collection[str] = (),
    higher: Collection[str] = (),
) -> Curve:
    """The curve of a run's evaluations, as `read_curve` reads it from the run's log.

    A metric of which nobody says what is better is left out.

    Args:
      evaluations: each with its step, and what validations write.
      lower, higher: see `read_curve`.
    """
    table = {row["step"]: _validations(row) for row in evaluations}
    names = dict.fromkeys(name for row in table.values() for name in row)
    known = {name: _is_higher_better(name, lower, higher) for name in names}
    return _make_curve(
        table,
        {name: is_higher for name, is_higher in known.items() if is_higher is not None},
    )


def _make_curve(table, higher_is_better) -> Curve:
    steps = sorted(table)
    return Curve(
        steps=np.array(steps, dtype=np.int64),
        metrics={
            name: np.array([table[step].get(name, math.nan) for step in steps], float)
            for name in higher_is_better
        },
        higher_is_better=higher_is_better,
    )


def _validations(row) -> dict[str, float]:
    # None is null, what the log makes of a value that is not finite.
    return {
        name: math.nan if value is None else value
        for name, value in row.items()
        if name.startswith(_VALIDATION) and not name.startswith(_REPEATS)
    }


def _is_higher_better(name, lower, higher) -> bool | None:
    """None: nobody says."""
    if name in lower or name in higher:
        return name in higher
    parts = set(re.split(r"[^a-z]+", name.lower()))
    # "clip-iqa" and "clip_iqa" are clipiqa.
    parts |= {"clipiqa"} if {"clip", "iqa"} <= parts else set()
    is_higher, is_lower = bool(parts & set(HIGHER)), bool(parts & set(LOWER))
    return None if is_higher == is_lower else is_higher


def _read_csv(path: Path, text: str) -> tuple[list[str], Iterable[Row]]:
    if not text.strip():
        raise CurveError(f"{path}: is empty; its first line is step,<metric>,...")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        header = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise CurveError(f"{path}: line 1: {error}") from error
    names = [name for name in header if name.lower() != "step"]
    if len(header) - len(names) != 1:
        raise CurveError(
            f"{path}: line 1: needs one column called step; the header is "
            "step,<metric>,... with commas"
        )
    if not names:
        raise CurveError(f"{path}: line 1: has no metric beside step")
    for name in names:
        if not name or names.count(name) > 1:
            fault = f"column {name!r} stands there twice" if name else "unnamed column"
            raise CurveError(f"{path}: line 1: {fault}")
    return names, _csv_rows(path, reader, header)


def _csv_rows(path, reader, header) -> Iterator[Row]:
    at = [name.lower() for name in header].index("step")
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise CurveError(
                    f"{path}: line {line}: has {len(cells)} cells, the header "
                    f"{len(header)}"
                )
            row = {
                name: _number(path, line, name, cell)
                for name, cell in zip(header, cells, strict=True)
                if cell.strip()
            }
            step = _whole(path, line, row.pop(header[at], math.nan))
            if row:
                yield line, step, row
    except csv.Error as error:
        raise CurveError(f"{path}: line {reader.line_num}: {error}") from error


def _number(path, line, name, cell) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise CurveError(
            f"{path}: line {line}: {name} is {str(cell).strip()[:40]!r}, not a number"
        ) from None


def _whole(path, line, step: float) -> int:
    if not float(step).is_integer() or abs(step) >= _STEP_LIMIT:
        raise CurveError(f"{path}: line {line}: step is not a whole number below 2^53")
    return int(step)


def _read_log(path: Path, text: str) -> tuple[list[str], list[Row]]:
    rows = []
    lines = text.splitlines()
    for line, content in enumerate(lines, 1):
        try:
            record = json.loads(content)
            step = operator.index(record["step"])
        except (ValueError, KeyError, TypeError):
            if line == len(lines):
                continue  # what a killed run was writing
            raise CurveError(f"{path}: line {line}: is not a line of a log") from None
        values = {
            name: _number(path, line, name, value)
            for name, value in _validations(record).items()
        }
        if values:
            rows.append(
                (line, _whole(path, line, _number(path, line, "step", step)), values)
            )
    names = list(dict.fromkeys(name for *_, values in rows for name in values))
    if not names:
        raise CurveError(
            f"{path}: has no validations; train with --override val.folder=PHOTOS"
        )
    return names, rows
