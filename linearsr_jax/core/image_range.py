"""Converts between uint8 images, used at the edges, and floats in [-1, 1]."""

import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, UInt8


def to_unit_range(image: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Converts levels 0..255 to float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Converts [-1, 1] to levels 0..255 on the host, clipped and rounded."""
    # In place: the images that upscaling makes are large.
    levels = np.array(image, np.float32)
    np.clip(levels, -1.0, 1.0, out=levels)
    levels += 1.0
    levels *= 127.5
    return np.rint(levels, out=levels).astype(np.uint8)
