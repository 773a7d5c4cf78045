"""Turns values per image into the tables that people compare.

The results of a method are rows {"image": name, <metric>: value, ...}, one per image.
All functions are pure except `write_per_image`.
"""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linearsr_jax.core.files import write_text

ImageRow = Mapping[str, Any]


def summarize(
    per_image: Mapping[str, Sequence[ImageRow]],
    per_folder: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Averages each method's values over its images.

    Args:
        per_image: rows of each method; the order is kept.
        per_folder: for each method, the values that only a set of images has (FID).

    Returns:
        {"rows": [{"name": method, "n": number of images,
        <metric>: {"mean": float, "stderr": float or None}}]}. The standard error
        is the sample deviation (ddof 1) over sqrt(n); it is None for a single image
        and for a value of the whole set.

    Raises:
        ValueError: a method has no rows, an image twice, rows with different
            metrics, or a value that is not finite, which JSON cannot represent.
    """
    per_folder = per_folder or {}
    return {
        "rows": [
            _summary(name, rows)
            | {
                metric: {"mean": value, "stderr": None}
                for metric, value in per_folder.get(name, {}).items()
            }
            for name, rows in per_image.items()
        ]
    }


def format_table(
    rows: Sequence[Mapping[str, Any]],
    higher_is_better: Mapping[str, bool] | None = None,
) -> str:
    """Formats the rows of `summarize` as aligned plain text.

    Args:
        rows: `summarize(...)["rows"]`.
        higher_is_better: direction of each metric, for an arrow in its heading.

    Returns:
        A heading and one line per row, "mean ± stderr" to four decimals, or "-" where
        a method lacks a metric. There is no final newline; no rows give "".
    """
    if not rows:
        return ""
    metrics = list(
        dict.fromkeys(key for row in rows for key in row if key not in ("name", "n"))
    )
    arrows = {
        metric: " ↑" if is_up else " ↓"
        for metric, is_up in (higher_is_better or {}).items()
    }
    cells = [["name", "n", *(m + arrows.get(m, "") for m in metrics)]]
    cells += [
        [row["name"], str(row["n"]), *(_format(row.get(m)) for m in metrics)]
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
            f"{path}: exists already; choose another name or --overwrite"
        )


def write_per_image(
    path: str | os.PathLike,
    per_image: Mapping[str, Sequence[ImageRow]],
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
    records = [{"name": n, **row} for n, rows in per_image.items() for row in rows]
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


def _summary(name: str, rows: Sequence[ImageRow]) -> dict[str, Any]:
    if not rows:
        raise ValueError(f"{name}: no images to average")
    metrics = [key for key in rows[0] if key != "image"]
    seen = set()
    for row in rows:
        image = row["image"]
        if image in seen:
            raise ValueError(f"{name}: image {image!r} occurs twice")
        seen.add(image)
        if row.keys() != rows[0].keys():
            raise ValueError(
                f"{name}: image {image!r} has {sorted(row.keys() - {'image'})}, "
                f"the first image has {sorted(metrics)}"
            )
        for metric in metrics:
            if not math.isfinite(row[metric]):
                raise ValueError(f"{name}: {metric} of {image!r} is {row[metric]}")
    return {
        "name": name,
        "n": len(rows),
        **{m: _mean_and_stderr([float(row[m]) for row in rows]) for m in metrics},
    }


def _mean_and_stderr(values: Sequence[float]) -> dict[str, float | None]:
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return {"mean": mean, "stderr": None}
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return {"mean": mean, "stderr": math.sqrt(variance / n)}


def _format(value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return "-"
    if value["stderr"] is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} ± {value['stderr']:.4f}"
