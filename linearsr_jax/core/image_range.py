"""uint8 at the edges, [-1, 1] inside."""

import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float, UInt8


def to_unit_range(image: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """0..255 -> [-1, 1], float32."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """[-1, 1] -> 0..255, clipped, rounded to the nearest level."""
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
