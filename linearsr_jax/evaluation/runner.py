"""Compares upscalers and folders of upscaled images by the field's protocol.

PSNR and SSIM are computed on Y without cropping the border, LPIPS with AlexNet. LR
images are used as they are. Images are matched by name, never by position.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from linearsr_jax.core import image_io
from linearsr_jax.core.images import Image
from linearsr_jax.evaluation.folders import EvaluationError, match_images
from linearsr_jax.evaluation.tables import ImageScores
from linearsr_jax.metrics import Metric, get_metrics

# Upscales a uint8 (H, W, 3) image to (4 H, 4 W, 3); or a folder of such outputs.
Method = Callable[[np.ndarray], np.ndarray] | Path


class MissingReferenceError(EvaluationError):
    """Raised if a metric or method needs a folder of images that was not given."""


@dataclass
class Scores:
    """Results of `evaluate`, for `tables.summarize`.

    Attributes:
        per_image: for each method, the values of each image.
        per_folder: for each method, the values that only a set of images has.
    """

    per_image: dict[str, list[ImageScores]] = field(default_factory=dict)
    per_folder: dict[str, dict[str, float]] = field(default_factory=dict)


def evaluate(
    methods: Mapping[str, Method],
    metrics: Sequence[str],
    *,
    hr: Path | None = None,
    lr: Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Scores:
    """Scores methods on folders of images, with one image in memory at a time.

    Args:
      methods: upscalers, or folders of upscaled images, by the name of their row.
      metrics: names for `metrics.get_metrics`.
      hr: folder of the true images, 4x the size of their LR images.
      lr: folder of the images to upscale.
      progress: wraps the images, to show progress.

    Returns:
      The scores of every method, in the order of methods and of image names.

    Raises:
      MissingReferenceError: see `check_references`; raised before anything is read.
      EvaluationError: the folders contain different names, sizes do not fit, or a
        method or metric fails on an image, which the message names.
      image_io.ImageError: a folder is missing, or an image cannot be read.
      Exception: whatever loading a metric raises.
    """
    selected = get_metrics(metrics)
    check_references(methods, selected, hr, lr)
    functions = {metric: metric.load() for metric in selected}
    if all(metric.over == "image" for metric in selected):
        return Scores(_score_images(methods, functions, hr, lr, progress))
    with tempfile.TemporaryDirectory() as scratch:
        # Metrics of a set read files, so write the outputs to disk.
        folders = {}
        for index, (name, method) in enumerate(methods.items()):
            if not isinstance(method, Path):
                assert lr is not None  # Or check_references had raised.
                folder = Path(scratch) / str(index)
                method = _write_outputs(method, lr, folder, progress)
            folders[name] = method
        return Scores(
            _score_images(folders, functions, hr, lr, progress),
            {
                name: _measure(folder, (folder, {"hr": hr}), functions, "folder")
                for name, folder in folders.items()
            },
        )


def check_references(
    methods: Mapping[str, Method],
    metrics: Iterable[Metric],
    hr: Path | None,
    lr: Path | None,
) -> None:
    """Checks that methods and metrics have the images they need.

    Raises:
      MissingReferenceError: there is nothing to score, an upscaler has no LR images, or
        a metric lacks what it compares with.
    """
    if not methods:
        raise MissingReferenceError("nothing to score: give --data, --lr or --sr")
    for name, method in methods.items():
        if lr is None and not isinstance(method, Path):
            raise MissingReferenceError(
                f"{name} needs low-resolution images: add --lr DIR"
            )
    for metric in metrics:
        if metric.compares_with == "hr" and hr is None:
            raise MissingReferenceError(
                f"{metric.name} compares with the true images: add --hr DIR, or choose "
                "--metrics that need none (niqe)"
            )
        if metric.compares_with == "lr" and lr is None:
            raise MissingReferenceError(
                f"{metric.name} compares with the low-resolution images: add --lr DIR"
            )


def _write_outputs(
    method: Callable, lr: Path, folder: Path, progress: Callable
) -> Path:
    """Upscales all LR images into a new folder of PNG files."""
    folder.mkdir()
    for path in progress(image_io.find_images(lr)):
        output = _apply(method, path, _read(path))
        image_io.write_image(folder / f"{path.stem}.png", Image(output))
    return folder


def _score_images(
    methods: Mapping[str, Method],
    functions: Mapping[Metric, Callable[..., float]],
    hr: Path | None,
    lr: Path | None,
    progress: Callable[[Iterable], Iterable],
) -> dict[str, list[ImageScores]]:
    """Scores every image of every method."""
    made = [method for method in methods.values() if isinstance(method, Path)]
    folders = [folder for folder in (hr, lr, *made) if folder is not None]
    scores: dict[str, list[ImageScores]] = {name: [] for name in methods}
    for files in progress(match_images(folders)):
        references = {
            kind: _read(files[folder])
            for kind, folder in (("hr", hr), ("lr", lr))
            if folder is not None
        }
        for name, method in methods.items():
            if isinstance(method, Path):
                path = files[method]
                output = _read(path)
            else:
                path = files[lr]
                output = _apply(method, path, references["lr"])
            if hr is not None and output.shape != references["hr"].shape:
                raise EvaluationError(
                    f"{path}: {name} is {_size(output)}, its HR image {files[hr]} is "
                    f"{_size(references['hr'])}"
                )
            values = _measure(path, (output, references), functions, "image")
            scores[name].append(ImageScores(files[folders[0]].name, values))
    return scores


def _apply(method: Callable, path: Path, image_lr: np.ndarray) -> np.ndarray:
    try:
        return method(image_lr)
    except Exception as error:
        raise EvaluationError(f"{path}: cannot be upscaled ({error})") from error


def _measure(
    path: Path,
    judged: tuple[Any, Mapping[str, Any]],
    functions: Mapping[Metric, Callable[..., float]],
    over: str,
) -> dict[str, float]:
    """Computes the metrics of an image or folder.

    Args:
      path: named in errors.
      judged: the output, and its references by kind ("hr", "lr").
      functions: loaded metrics.
      over: "image" or "folder"; other metrics are skipped.

    Returns:
      Values by the names of the metrics.
    """
    output, references = judged
    values = {}
    for metric, function in functions.items():
        if metric.over != over:
            continue
        kind = metric.compares_with
        inputs = (output,) if kind is None else (output, references[kind])
        try:
            value = float(function(*inputs))
        # Metrics of other packages may raise anything; naming the image helps most.
        except Exception as error:
            raise EvaluationError(f"{path}: {metric.name}: {error}") from error
        if not math.isfinite(value):
            raise EvaluationError(f"{path}: {metric.name} is {value}")
        values[metric.name] = value
    return values


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _read(path):
    return image_io.read_image(path, refuse=image_io.STRICT).rgb
