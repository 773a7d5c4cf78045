"""Converts between uint8 images, used at the edges, and floats in [-1, 1]."""

import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float, UInt8


def to_unit_range(image: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Converts levels 0..255 to float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Converts [-1, 1] to levels 0..255, clipped and rounded to the nearest."""
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
