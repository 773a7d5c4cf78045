"""Compares upscalers on a benchmark: the protocol of the field, one table.

PSNR and SSIM on Y without border crop, LPIPS AlexNet; LR images are used as they
are. Bicubic and bicubic sharpened by an unsharp mask are always rows of the table:
whatever does not beat the second has only learned to sharpen.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from linearsr_jax import image_io
from linearsr_jax.codecs.base import SCALE
from linearsr_jax.metrics import get_metrics

# radius in pixels, percent, threshold in levels
UNSHARP_MASK = (2, 200, 0)

PerImage = dict[str, list[dict[str, Any]]]


class EvaluationError(Exception):
    """A data set that cannot be compared; one line, says what to do."""


def find_pairs(hr_folder: Path, other_folder: Path) -> list[tuple[Path, Path]]:
    """Pairs the images of two folders by name (without suffix), sorted.

    Raises:
      EvaluationError: an image without a partner: silently dropping or shifting
        pairs is how wrong numbers get published.
      image_io.ImageError: a folder that is missing or without images.
    """
    hr, other = (
        {path.stem: path for path in image_io.find_images(folder)}
        for folder in (hr_folder, other_folder)
    )
    lonely = sorted(hr.keys() ^ other.keys())
    if lonely:
        raise EvaluationError(
            f"{lonely[0]}: in only one of {hr_folder} and {other_folder} "
            f"({len(lonely)} such names); the folders must hold the same names"
        )
    return [(hr[name], other[name]) for name in sorted(hr)]


def find_folders(data: Path) -> tuple[Path, Path]:
    """The HR and the LR folder inside a data set's folder, found by name.

    HR or GT, and LR, alone or followed by more (LR_bicubic_x4), in any case.

    Raises:
      EvaluationError: not exactly one of each.
    """
    if not data.is_dir():
        raise EvaluationError(f"{data}: no such folder; it should hold HR and LR")
    folders = sorted(path for path in data.iterdir() if path.is_dir())

    def only(kind: str, prefixes: tuple[str, ...]) -> Path:
        found = [p for p in folders if p.name.lower().startswith(prefixes)]
        if len(found) != 1:
            raise EvaluationError(
                f"{data}: needs one folder of {kind} images named "
                f"{' or '.join(prefixes).upper()}..., found {len(found)}"
            )
        return found[0]

    return only("HR", ("hr", "gt")), only("LR", ("lr",))


def evaluate_dataset(
    data: Path,
    upscalers: dict[str, Callable[[np.ndarray], np.ndarray]],
    metrics: Sequence[str],
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> PerImage:
    """Scores bicubic, bicubic+unsharp and the upscalers on a folder of pairs.

    Args:
      data: see `find_folders`.
      upscalers: by name; uint8 (h, w, 3) -> uint8 (4h, 4w, 3).
      metrics: names in `metrics.METRICS`.
      progress: wraps the list of pairs; a progress bar's place.

    Returns:
      Rows per method, one per image, for `metrics.tables.summarize`.

    Raises:
      EvaluationError: see `find_pairs`; or an HR image that is not 4x its LR image.
      image_io.ImageError: an unreadable image.
    """
    methods = {"bicubic": bicubic, "bicubic+unsharp": bicubic_unsharp, **upscalers}
    functions = {metric.name: metric.load() for metric in get_metrics(metrics)}
    rows: PerImage = {name: [] for name in methods}
    for hr_path, lr_path in progress(find_pairs(*find_folders(data))):
        image_hr = image_io.read_image(hr_path).pixels
        image_lr = image_io.read_image(lr_path).pixels
        expected = tuple(SCALE * side for side in image_lr.shape[:2])
        if image_hr.shape[:2] != expected:
            raise EvaluationError(
                f"{hr_path}: is {image_hr.shape[1]}x{image_hr.shape[0]}, 4x its LR "
                f"image is {expected[1]}x{expected[0]}"
            )
        for name, upscale in methods.items():
            rows[name].append(_score(hr_path, upscale(image_lr), image_hr, functions))
    return rows


def evaluate_pairs(
    hr_folder: Path,
    sr_folder: Path,
    metrics: Sequence[str],
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> PerImage:
    """Scores the images of one folder against those of another.

    Args:
      hr_folder, sr_folder: images of the same names and sizes.
      metrics: names in `metrics.METRICS`.
      progress: as for `evaluate_dataset`.

    Returns:
      As `evaluate_dataset`, one method named like sr_folder.

    Raises:
      EvaluationError, image_io.ImageError: as `evaluate_dataset`.
    """
    functions = {metric.name: metric.load() for metric in get_metrics(metrics)}
    rows = []
    for hr_path, sr_path in progress(find_pairs(hr_folder, sr_folder)):
        image_hr = image_io.read_image(hr_path).pixels
        image_sr = image_io.read_image(sr_path).pixels
        if image_hr.shape != image_sr.shape:
            raise EvaluationError(
                f"{sr_path}: is {image_sr.shape[1]}x{image_sr.shape[0]}, its HR image "
                f"{image_hr.shape[1]}x{image_hr.shape[0]}"
            )
        rows.append(_score(hr_path, image_sr, image_hr, functions))
    return {sr_folder.name: rows}


def bicubic(image_lr: np.ndarray) -> np.ndarray:
    """Pillow's bicubic x4 of a uint8 image."""
    return np.asarray(_bicubic(image_lr))


def bicubic_unsharp(image_lr: np.ndarray) -> np.ndarray:
    """Pillow's bicubic x4, then `UNSHARP_MASK`."""
    return np.asarray(_bicubic(image_lr).filter(ImageFilter.UnsharpMask(*UNSHARP_MASK)))


def _bicubic(image_lr: np.ndarray) -> Image.Image:
    height, width = image_lr.shape[:2]
    return Image.fromarray(image_lr).resize(
        (SCALE * width, SCALE * height), Image.Resampling.BICUBIC
    )


def _score(path: Path, image_sr: np.ndarray, image_hr: np.ndarray, functions) -> dict:
    values = {name: float(f(image_sr, image_hr)) for name, f in functions.items()}
    return {"image": path.name, **values}
