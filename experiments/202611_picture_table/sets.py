"""The sets of pairs: benchmarks as they are, and validation photographs degraded.

A set is a folder with HR and LR inside, as `linearsr eval --data` takes it.
"""

import zlib
from pathlib import Path

import numpy as np

from linearsr_jax.core import image_io
from linearsr_jax.core.images import Image
from linearsr_jax.core.scale import SCALE
from linearsr_jax.data.degradation_params import DEGRADATIONS
from linearsr_jax.data.degrading import degrade_by_name

BENCHMARKS = ("RealSR", "Set5", "Set14")
# Side of the crops of photographs: the smallest that NIQE likes (it needs several
# blocks of 96), a quarter of a RealSR pair's cost.
CROP = 256


def make_sets(benchmarks: Path, photos: Path, work: Path) -> dict[str, Path]:
    """Lists all sets; makes those of photographs where they are not there yet.

    Args:
        benchmarks: folder of the folders BENCHMARKS.
        photos: folder with val/.
        work: the new sets go below it.

    Returns:
        Folders by the sets' names.
    """
    sets = {name: benchmarks / name for name in BENCHMARKS}
    for degradation in DEGRADATIONS:
        folder = work / "sets" / f"val-{degradation}"
        if not folder.is_dir():
            _make_pairs(photos / "val", folder, degradation)
        sets[f"val, {degradation}"] = folder
    return sets


def _make_pairs(photos: Path, folder: Path, degradation: str) -> None:
    """Writes a crop of each photograph and its degraded version."""
    partial = folder.with_suffix(".part")
    for kind in ("HR", "LR"):
        (partial / kind).mkdir(parents=True, exist_ok=True)
    for path in image_io.find_images(photos):
        image_hr = busiest_crop(image_io.read_image(path).rgb, CROP)
        # Of the name, so that another photograph does not change the others.
        seed = zlib.crc32(f"{degradation} {path.stem}".encode())
        image_lr = degrade_by_name(
            image_hr, degradation, SCALE, np.random.default_rng(seed)
        )
        for kind, image in (("HR", image_hr), ("LR", image_lr)):
            target = partial / kind / f"{path.stem}.png"
            image_io.write_image(target, Image(image), overwrite=True)
    partial.rename(folder)


def busiest_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Cuts out the square where neighbouring pixels differ most.

    The middle of a landscape is often sky, which every method upscales well.

    Args:
        image: uint8 (H, W, 3), sides at least `side`.
        side: of the square, a multiple of 8.

    Returns:
        uint8 (side, side, 3); its corner lies on a multiple of half its side.
    """
    gray = image.astype(np.float64).mean(axis=2)
    best, corner = -1.0, (0, 0)
    for top in range(0, image.shape[0] - side + 1, side // 2):
        for left in range(0, image.shape[1] - side + 1, side // 2):
            square = gray[top : top + side, left : left + side]
            activity = sum(np.abs(np.diff(square, axis=axis)).mean() for axis in (0, 1))
            if activity > best:
                best, corner = activity, (top, left)
    top, left = corner
    return np.ascontiguousarray(image[top : top + side, left : left + side])
