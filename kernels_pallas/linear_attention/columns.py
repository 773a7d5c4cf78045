"""Queries, keys and values as columns of the one array that a product made of them.

The kernels copy each tile from wherever it stands, so that the three are not cut apart
before: that would write and read all of them once more.
"""

import dataclasses

import jax.numpy as jnp

from kernels_pallas.array_types import Array, Float


@dataclasses.dataclass(frozen=True)
class Columns:
    """(B, N, H, K) as the columns from `first` of an array (B, N, C)."""

    array: Float[Array, "B N C"]
    first: int
    shape: tuple[int, int, int, int]

    @property
    def dtype(self) -> jnp.dtype:
        """Of the array."""
        return self.array.dtype


def as_columns(x: Float[Array, "B N H K"] | Columns) -> Columns:
    """Takes an array by itself as all the columns of one."""
    if isinstance(x, Columns):
        return x
    batch, tokens, heads, size = x.shape
    array = x.reshape(batch, tokens, heads * size)
    return Columns(array, 0, (batch, tokens, heads, size))


def split(qkv: Float[Array, "B N C"], heads: int) -> tuple[Columns, Columns, Columns]:
    """Takes queries, keys and values from (B, N, 3 H K), without copying them."""
    batch, tokens, channels = qkv.shape
    width = channels // 3
    shape = (batch, tokens, heads, width // heads)
    query, key, value = (Columns(qkv, part * width, shape) for part in range(3))
    return query, key, value
