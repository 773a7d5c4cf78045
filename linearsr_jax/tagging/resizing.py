"""Images cut and resized to the squares that the networks take."""

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
    """A part of an image as a square, by Pillow, which filters when it reduces.

    Args:
      image: RGB.
      size: side of the result in pixels.
      filter: Pillow's.
      box: left, top, right, bottom of the part in pixels, fractions allowed; by
        default the whole image, whatever its shape.
    """
    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize((size, size), filter, box=box))


def central_box(height: int, width: int, fraction: float) -> Box:
    """The central square whose side is that fraction of the short side."""
    side = fraction * min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def reduce(
    image: UInt8[np.ndarray, "H W 3"], factor: int
) -> UInt8[np.ndarray, "H/factor W/factor 3"]:
    """An image with its sides divided by a factor, bicubic; no side becomes 0."""
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize((width, height), BICUBIC))
