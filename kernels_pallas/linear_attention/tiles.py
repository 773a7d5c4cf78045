"""States of several heads as one matrix: what the kernels multiply with.

A tile of T heads of size K is L = T * K channels wide. Its state is the (L, L) matrix S
with the heads' states as diagonal blocks, and Z of the same shape, in which z stands in
every column of its head's block. Heads missing in the last tile are zeros.
"""

import jax.numpy as jnp

from kernels_pallas.array_types import Array, Float


def pack(
    state: Float[Array, "B H K K+1"], heads_per_tile: int
) -> tuple[Float[Array, "B tiles L L"], Float[Array, "B tiles L L"]]:
    """Packs a state into S and Z."""
    products, sums = state[..., :-1], state[..., -1:]
    return (
        _block_diagonal(products, heads_per_tile),
        _block_diagonal(jnp.broadcast_to(sums, products.shape), heads_per_tile),
    )


def pack_sums(
    state: Float[Array, "B H K K+1"], heads_per_tile: int
) -> Float[Array, "B tiles L"]:
    """Packs the sums z of a state, without repetition."""
    sums = _whole_tiles(state[..., -1], heads_per_tile)
    return sums.reshape(sums.shape[0], -1, heads_per_tile * sums.shape[-1])


def unpack(
    products: Float[Array, "B tiles L L"],
    sums: Float[Array, "B tiles L"],
    heads: int,
    size: int,
) -> Float[Array, "B H K K+1"]:
    """Unpacks S and z into a state; drops what lies off the diagonal blocks of S."""
    sums = sums.reshape(sums.shape[0], -1, size)[:, :heads]
    blocks = _diagonal_blocks(products, heads, size)
    return jnp.concatenate([blocks, sums[..., None]], axis=-1)


def unpack_gradient(
    products: Float[Array, "B tiles L L"],
    repeated: Float[Array, "B tiles L L"],
    heads: int,
    size: int,
) -> Float[Array, "B H K K+1"]:
    """Gradients of S and Z -> gradient of the state: z had been copied, so add."""
    sums = jnp.sum(_diagonal_blocks(repeated, heads, size), axis=-1, keepdims=True)
    blocks = _diagonal_blocks(products, heads, size)
    return jnp.concatenate([blocks, sums], axis=-1)


def _whole_tiles(x, heads_per_tile):
    """Appends zero heads to (B, H, ...) until they fill whole tiles."""
    missing = -x.shape[1] % heads_per_tile
    return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))


def _block_diagonal(blocks, heads_per_tile):
    blocks = _whole_tiles(blocks, heads_per_tile)
    batch, _, size, _ = blocks.shape
    blocks = blocks.reshape(batch, -1, heads_per_tile, size, 1, size)
    same_head = jnp.eye(heads_per_tile, dtype=bool)[:, None, :, None]
    lanes = heads_per_tile * size
    return jnp.where(same_head, blocks, 0).reshape(batch, -1, lanes, lanes)


def _diagonal_blocks(matrix, heads, size):
    batch, count, lanes, _ = matrix.shape
    per_tile = lanes // size
    split = matrix.reshape(batch, count, per_tile, size, per_tile, size)
    blocks = jnp.moveaxis(jnp.diagonal(split, axis1=2, axis2=4), -1, 2)
    return blocks.reshape(batch, -1, size, size)[:, :heads]
