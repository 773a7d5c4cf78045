"""Cuts and resizes images to the squares that the taggers' networks take."""

import numpy as np
from PIL import Image

from linearsr_jax.core.array_types import UInt8

Box = tuple[float, float, float, float]

BILINEAR = Image.Resampling.BILINEAR
BICUBIC = Image.Resampling.BICUBIC


def resize(
    image: UInt8[np.ndarray, "H W 3"],
    size: int,
    filter: Image.Resampling,
    box: Box | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes a part of an image to a square, with Pillow's antialiasing.

    Args:
      image: RGB image.
      size: side of the result in pixels.
      filter: interpolation, one of Pillow's.
      box: left, top, right and bottom of the part in pixels, fractions allowed; by
        default the whole image, whatever its aspect ratio.
    """
    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize((size, size), filter, box=box))


def central_box(height: int, width: int, fraction: float) -> Box:
    """Returns the central square whose side is a fraction of the short side."""
    side = fraction * min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def reduce(
    image: UInt8[np.ndarray, "H W 3"], factor: int
) -> UInt8[np.ndarray, "H//{factor} W//{factor} 3"]:
    """Reduces an image by a factor, bicubic; each side stays at least 1 pixel."""
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize((width, height), BICUBIC))
