"""Reads evaluation curves from CSV files and from metrics.jsonl of training folders."""

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

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.esgf.evaluation import Validation, parse_name
from linearsr_jax.esgf.run_log import LOG

# Metrics for which higher, or lower, values are better.
HIGHER = ("psnr", "ssim", "musiq", "maniqa", "clipiqa")
LOWER = ("lpips", "dists", "niqe", "fid", "loss")

# Prefix of the scores in a training log.
_SCORE = "val_"
# Scores without a vote in logs that do not name the voters: the gain repeats the PSNR,
# and the flow loss at five levels would outvote the rest.
_NO_VOTE = re.compile("gain|loss_at_.*")

# From here on whole numbers are not exact as floats.
_STEP_LIMIT = 2**53

# Line number, step, and values of an evaluation.
Row = tuple[int, int, dict[str, float]]


class CurveError(LinearSRError, ValueError):
    """Raised for a file without a usable curve; one line that names file and line."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The evaluations of a run.

    Attributes:
      steps: steps of the evaluations, increasing.
      metrics: values of each metric at these steps; NaN where one is missing.
      higher_is_better: direction of each metric.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    higher_is_better: dict[str, bool]


def read_curve(
    path: Path, *, lower: Collection[str] = (), higher: Collection[str] = ()
) -> Curve:
    """Reads a CSV file, or the validations of a training folder.

    A CSV file has the header `step,<metric>,...`, and rows in any order. An empty cell
    means that the evaluation did not take place; a row of empty cells is skipped. `nan`
    and `inf` are values that the run produced.

    From a training folder the metrics that vote on its knee are read, and those named
    in lower and higher. Its log gives the voters and their directions. In a CSV file,
    and in logs from before 0.2, the parts of a name give the direction:
    `val_lpips_light` contains lpips, which is in LOWER.

    Args:
      path: CSV file, folder with metrics.jsonl, or such a file itself.
      lower: metrics for which lower is better, whatever their names say.
      higher: metrics for which higher is better, likewise.

    Raises:
      OSError: path cannot be read.
      CurveError: the file has no steps, no metrics, text among the numbers, a repeated
        step, or a metric without a direction.
    """
    if path.is_dir():
        if not (path / LOG).exists():
            raise CurveError(f"{path}: not a training folder; it has no {LOG}")
        path = path / LOG
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CurveError(f"{path}: is not a text file") from error
    read = _read_log if path.suffix == ".jsonl" else _read_csv
    file = read(path, text)
    both = set(lower) & set(higher)
    absent = (set(lower) | set(higher)) - set(file.names)
    if both or absent:
        fault = (
            "is in both --lower and --higher; leave it in one"
            if both
            else f"is not a metric; there are {', '.join(file.names)}"
        )
        raise CurveError(f"{path}: {min(both or absent)!r} {fault}")
    table: dict[int, dict[str, float]] = {}
    for line, step, values in file.rows:
        if step in table:
            raise CurveError(f"{path}: line {line}: step {step} occurs twice")
        table[step] = values
    is_higher: dict[str, bool] = {}
    for name in file.names:
        if name in lower or name in higher:
            is_higher[name] = name in higher
        elif name in file.voters:
            direction = file.higher_is_better.get(name, _direction_by_name(name))
            if direction is None:
                raise CurveError(
                    f"{path}: {name!r}: are higher or lower values better? "
                    f"--lower {name} or --higher {name}"
                )
            is_higher[name] = direction
    return _make_curve(table, is_higher)


def curve_of(validations: Sequence[Validation], metrics: Collection[str]) -> Curve:
    """Builds the curve of a run, equal to what `read_curve` reads from its log.

    Args:
      validations: validations of the run so far, with increasing steps.
      metrics: names of the metrics that vote, on averaged weights.
    """
    table, is_higher = {}, {}
    for validation in validations:
        voters = [e for e in validation.evaluations if e.votes(metrics)]
        table[validation.step] = {e.name: e.value for e in voters}
        is_higher |= {e.name: e.higher_is_better for e in voters}
    return _make_curve(table, is_higher)


@dataclasses.dataclass(frozen=True)
class _File:
    """Content of a file.

    Attributes:
      names: names of all metrics.
      voters: names of the metrics to read by default.
      higher_is_better: directions that the file gives.
      rows: rows, made and checked while they are read.
    """

    names: list[str]
    voters: Collection[str]
    higher_is_better: Mapping[str, bool]
    rows: Iterable[Row]


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


def _direction_by_name(name: str) -> bool | None:
    """Infers from a name whether higher is better; None if it does not tell."""
    parts = set(re.split(r"[^a-z]+", name.lower()))
    # "clip-iqa" and "clip_iqa" are clipiqa.
    parts |= {"clipiqa"} if {"clip", "iqa"} <= parts else set()
    is_higher, is_lower = bool(parts & set(HIGHER)), bool(parts & set(LOWER))
    return None if is_higher == is_lower else is_higher


def _read_csv(path: Path, text: str) -> _File:
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
            fault = f"column {name!r} occurs twice" if name else "unnamed column"
            raise CurveError(f"{path}: line 1: {fault}")
    return _File(names, names, {}, _csv_rows(path, reader, header))


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


def _read_log(path: Path, text: str) -> _File:
    rows, last = [], {}
    lines = text.splitlines()
    for line, content in enumerate(lines, 1):
        try:
            record = json.loads(content)
            step = operator.index(record["step"])
        except (ValueError, KeyError, TypeError):
            if line == len(lines):
                continue  # a killed run was writing this line
            raise CurveError(f"{path}: line {line}: is not a line of a log") from None
        values = {
            # The log writes null for a value that is not finite.
            name: math.nan if value is None else _number(path, line, name, value)
            for name, value in record.items()
            if name.startswith(_SCORE)
        }
        if values:
            last = record
            rows.append(
                (line, _whole(path, line, _number(path, line, "step", step)), values)
            )
    names = list(dict.fromkeys(name for *_, values in rows for name in values))
    if not names:
        raise CurveError(
            f"{path}: has no validations; train with --override val.folder=PHOTOS"
        )
    voters = last.get("voters", [name for name in names if _voted_before(name)])
    return _File(names, voters, last.get("higher_is_better", {}), rows)


def _voted_before(name: str) -> bool:
    metric, _, weights = parse_name(name)
    return weights == "averaged" and not _NO_VOTE.fullmatch(metric)
