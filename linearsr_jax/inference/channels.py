"""Runs the model on an image's colours and alpha, to the size that is wanted."""

import dataclasses
from collections.abc import Callable

import numpy as np

from linearsr_jax.core.array_types import Float, Real
from linearsr_jax.core.image_range import to_levels
from linearsr_jax.core.images import Image
from linearsr_jax.inference.sizes import plan_passes, resize
from linearsr_jax.inference.transparency import fill_transparent, limit_alpha

# From levels up to 255, whole for 8 bits, to about [-1, 1].
Enlarge = Callable[[Real[np.ndarray, "y x 3"]], Float[np.ndarray, "4*y 4*x 3"]]
# What is done to an output, given the levels of its input; all in [-1, 1].
Finish = Callable[
    [Float[np.ndarray, "H W 3"], Float[np.ndarray, "y x 3"]],
    Float[np.ndarray, "H W 3"],
]

# Rec. 601, as that of files; one column.
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


def upscale_channels(
    image: Image, size: tuple[int, int], enlarge: Enlarge, finish: Finish
) -> Image:
    """Upscales an image; alpha is upscaled like a gray image of its own.

    Args:
      image: what to upscale.
      size: (width, height) of the result.
      enlarge: the model.
      finish: applied to the colours at their final size.

    Returns:
      An image of the same channels and depth, with the same metadata.
    """
    pixels, alpha = image.pixels, image.alpha
    if alpha is not None:
        pixels = fill_transparent(pixels, alpha)
    pixels_hr = _run(pixels, size, enlarge, finish)
    alpha_hr = None
    if alpha is not None:
        alpha_hr = _run(alpha[..., None], size, enlarge, lambda output, _: output)
        alpha_hr = limit_alpha(alpha_hr[..., 0], alpha)
    return dataclasses.replace(image, pixels=pixels_hr, alpha=alpha_hr)


def _run(pixels, size, enlarge, finish):
    """Upscales (H, W, 1) or (H, W, 3) of uint8 or uint16 to the same type."""
    # The network knows levels up to 255; those of 16 bits lie between them.
    levels = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32) / 257
    levels = np.broadcast_to(levels, (*levels.shape[:2], 3))
    _, *further = plan_passes((pixels.shape[1], pixels.shape[0]), size)
    image = enlarge(levels)
    for between in further:
        image = np.clip(resize(image, between), -1, 1)
        image = enlarge((image + 1) * 127.5)
    image = finish(resize(image, size), levels.astype(np.float32) / 127.5 - 1)
    if pixels.shape[2] == 1:
        image = image @ _LUMA
    return to_levels(image, pixels.dtype)
