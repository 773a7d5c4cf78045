"""Upscalers to compare with: bicubic, and bicubic with an unsharp mask.

A method that does not beat the second has only learned to sharpen.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from linearsr_jax.core.scale import SCALE

# Radius in pixels, percent, threshold in levels.
UNSHARP_MASK = (2, 200, 0)


def bicubic(image_lr: np.ndarray) -> np.ndarray:
    """Enlarges a uint8 (H, W, 3) image x4 by Pillow's bicubic."""
    return np.asarray(_bicubic(image_lr))


def bicubic_unsharp(image_lr: np.ndarray) -> np.ndarray:
    """Enlarges x4 by Pillow's bicubic, then applies `UNSHARP_MASK`."""
    return np.asarray(_bicubic(image_lr).filter(ImageFilter.UnsharpMask(*UNSHARP_MASK)))


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bicubic": bicubic,
    "bicubic+unsharp": bicubic_unsharp,
}


def _bicubic(image_lr: np.ndarray) -> Image.Image:
    height, width = image_lr.shape[:2]
    return Image.fromarray(image_lr).resize(
        (SCALE * width, SCALE * height), Image.Resampling.BICUBIC
    )
