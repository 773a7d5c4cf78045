"""Turns values per image into the tables that people compare.

All functions are pure except `write_per_image`.
"""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from linearsr_jax.core.files import write_text


class ImageScores(NamedTuple):
    """The values of one image, by metric."""

    image: str
    values: Mapping[str, float]


class Average(NamedTuple):
    """A mean over images.

    Attributes:
        mean: the mean; or the one value of the whole set.
        stderr: sample deviation (ddof 1) over sqrt(n); None for a single image and
            for a value of the whole set.
    """

    mean: float
    stderr: float | None


class Row(NamedTuple):
    """One compared method: its name, number of images, and averages by metric."""

    name: str
    n: int
    averages: Mapping[str, Average]


def summarize(
    per_image: Mapping[str, Sequence[ImageScores]],
    per_folder: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Row]:
    """Averages each method's values over its images.

    Args:
        per_image: values of each method; the order is kept.
        per_folder: for each method, the values that only a set of images has (FID).

    Returns:
        One row per method.

    Raises:
        ValueError: a method has no images, an image twice, images with different
            metrics, or a value that is not finite, which JSON cannot represent.
    """
    per_folder = per_folder or {}
    rows = []
    for name, images in per_image.items():
        of_set = {m: Average(x, None) for m, x in per_folder.get(name, {}).items()}
        rows.append(Row(name, len(images), _averages(name, images) | of_set))
    return rows


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Makes what --json prints.

    Returns:
        {"rows": [{"name": method, "n": number of images,
        <metric>: {"mean": float, "stderr": float or None}}]}.
    """
    return {
        "rows": [
            {"name": row.name, "n": row.n}
            | {metric: average._asdict() for metric, average in row.averages.items()}
            for row in rows
        ]
    }


def format_table(
    rows: Sequence[Row],
    higher_is_better: Mapping[str, bool] | None = None,
) -> str:
    """Formats the rows of `summarize` as aligned plain text.

    Args:
        rows: from `summarize`.
        higher_is_better: direction of each metric, for an arrow in its heading.

    Returns:
        A heading and one line per row, "mean ± stderr" to four decimals, or "-" where
        a method lacks a metric. There is no final newline; no rows give "".
    """
    if not rows:
        return ""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.averages))
    arrows = {
        metric: " ↑" if is_up else " ↓"
        for metric, is_up in (higher_is_better or {}).items()
    }
    cells = [["name", "n", *(m + arrows.get(m, "") for m in metrics)]]
    cells += [
        [row.name, str(row.n), *(_format(row.averages.get(m)) for m in metrics)]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            # Align names to the left and numbers to the right.
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def check_per_image_path(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Checks the path for `write_per_image` before the long work begins.

    Raises:
        ValueError: the suffix is neither .csv nor .json.
        OSError: the folder is missing, or the file exists and overwrite is False.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"{path}: must end in .csv or .json")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent}: no such folder; make it first")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(
            f"{path}: exists already; choose another name, or overwrite (--overwrite)"
        )


def write_per_image(
    path: str | os.PathLike,
    per_image: Mapping[str, Sequence[ImageScores]],
    *,
    overwrite: bool = False,
) -> None:
    """Writes all values, one record per method and image: name, image, metrics.

    The suffix chooses the format: .csv has one line per record, .json is
    {"rows": [records]}. Values keep all digits. A metric that a method lacks is empty
    in .csv and absent in .json. The file is written whole or not at all.

    Args:
        path: file to write, in UTF-8.
        per_image: see `summarize`.
        overwrite: whether to replace an existing file.

    Raises:
        ValueError, OSError: see `check_per_image_path`; or path cannot be written.
    """
    path = Path(path)
    check_per_image_path(path, overwrite=overwrite)
    records = [
        {"name": name, "image": image, **values}
        for name, images in per_image.items()
        for image, values in images
    ]
    if path.suffix.lower() == ".json":
        text = json.dumps({"rows": records}, indent=1, ensure_ascii=False) + "\n"
    else:
        buffer = io.StringIO()
        columns = dict.fromkeys(key for record in records for key in record)
        writer = csv.DictWriter(buffer, columns)
        writer.writeheader()
        writer.writerows(records)
        text = buffer.getvalue()
    try:
        write_text(path, text)
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror or error})"
        ) from error


def _averages(name: str, images: Sequence[ImageScores]) -> dict[str, Average]:
    if not images:
        raise ValueError(f"{name}: no images to average")
    metrics = images[0].values.keys()
    seen = set()
    for image, values in images:
        if image in seen:
            raise ValueError(f"{name}: image {image!r} occurs twice")
        seen.add(image)
        if values.keys() != metrics:
            raise ValueError(
                f"{name}: image {image!r} has {sorted(values)}, the first image has "
                f"{sorted(metrics)}"
            )
        for metric, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"{name}: {metric} of {image!r} is {value}")
    return {m: _average([float(values[m]) for _, values in images]) for m in metrics}


def _average(values: Sequence[float]) -> Average:
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Average(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Average(mean, math.sqrt(variance / n))


def _format(average: Average | None) -> str:
    if average is None:
        return "-"
    if average.stderr is None:
        return f"{average.mean:.4f}"
    return f"{average.mean:.4f} ± {average.stderr:.4f}"
