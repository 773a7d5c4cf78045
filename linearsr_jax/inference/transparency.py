"""Upscaling with alpha: what lies behind transparent pixels must not show at edges.

The colours that a file has where nothing is seen are arbitrary, often black, and every
filter mixes them into their neighbours. So colours are premultiplied, and the part of a
pixel that is transparent gets the premultiplied mean of its neighbourhood, from ever
coarser levels of a pyramid ("push-pull", Grossman and Dally 1998). What is opaque keeps
its colour.
"""

import numpy as np
import PIL.Image

Resampling = PIL.Image.Resampling


def fill_transparent(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Gives transparent pixels the colour of the visible ones around them.

    Args:
      pixels: uint8 or uint16 (H, W, C).
      alpha: transparency of the same type, (H, W).

    Returns:
      Pixels of the same type; unchanged where alpha is at its maximum, or if nothing is
      visible.
    """
    if not alpha.any():
        return pixels
    weight = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    planes = [weight * plane for plane in np.moveaxis(pixels.astype(np.float32), -1, 0)]
    filled = np.stack(_fill(planes, weight), -1)
    return np.rint(filled).astype(pixels.dtype)


def limit_alpha(alpha: np.ndarray, alpha_lr: np.ndarray) -> np.ndarray:
    """Keeps enlarged alpha between the extremes of the input around each pixel.

    So what is opaque or transparent all around stays exactly that.

    Args:
      alpha: enlarged, (H, W).
      alpha_lr: transparency of the same type, (h, w).
    """
    padded = np.pad(alpha_lr, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    low, high = (
        np.asarray(
            PIL.Image.fromarray(bound).resize(alpha.shape[::-1], Resampling.NEAREST)
        )
        for bound in (windows.min((2, 3)), windows.max((2, 3)))
    )
    return np.clip(alpha, low, high)


def _fill(planes, weight):
    """Premultiplied planes to straight ones, from this level and all coarser ones."""
    height, width = weight.shape
    if weight.min() == 1 or height == width == 1:
        return [plane / np.maximum(weight, 1e-12) for plane in planes]
    size = ((width + 1) // 2, (height + 1) // 2)
    coarse = _fill(
        [_resize(plane, size, Resampling.BOX) for plane in planes],
        _resize(weight, size, Resampling.BOX),
    )
    return [
        plane + (1 - weight) * _resize(filled, (width, height), Resampling.BILINEAR)
        for plane, filled in zip(planes, coarse, strict=True)
    ]


def _resize(plane, size, method):
    return np.asarray(PIL.Image.fromarray(plane).resize(size, method))
