"""Converts between the levels of images, used at the edges, and floats in [-1, 1]."""

import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, Real, UInt8

# So many values are converted at once: the images that upscaling makes are large, and
# their floats must not be there twice.
_CHUNK = 2**24


def to_unit_range(image: Real[Array, "..."]) -> Float[Array, "..."]:
    """Converts levels 0..255, whole or not, to float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Converts [-1, 1] to levels 0..255 on the host, clipped and rounded."""
    return to_levels(image, np.dtype(np.uint8))


def to_levels(image: Float[np.ndarray, "..."], dtype: np.dtype) -> np.ndarray:
    """Converts [-1, 1] to all levels of uint8 or uint16, clipped and rounded."""
    levels = np.empty(image.shape, dtype)
    half = np.iinfo(dtype).max / 2
    rows = -(-_CHUNK * len(image) // image.size)
    for start in range(0, len(image), rows):
        part = np.array(image[start : start + rows], np.float32)
        np.clip(part, -1.0, 1.0, out=part)
        part += 1.0
        part *= half
        levels[start : start + rows] = np.rint(part, out=part)
    return levels
