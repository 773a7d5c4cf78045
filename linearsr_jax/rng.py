"""Random streams: every draw is a fold of (seed, stream name, indices).

No key is carried or split along the way, so a draw can be repeated from its
coordinates alone: after a resume, in another process, for another image size.
"""

import zlib

import jax
import jax.numpy as jnp

from linearsr_jax.array_types import Array, Float, Int, Key

# Side of the noise blocks in latent pixels. Part of the meaning of a seed.
NOISE_BLOCK = 32


def stream_key(seed: int, name: str, *indices: int | Int[Array, ""]) -> Key[Array, ""]:
    """The key of a named stream at some indices (train step, sample, ...).

    Args:
      seed: the run's or the image's seed, 0 <= seed < 2**32.
      name: the stream's name; streams of different names are independent.
      indices: folded in one after another; may be traced.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key


def block_noise(
    key: Key[Array, ""], height: int, width: int, channels: int
) -> Float[Array, "height width channels"]:
    """Unit normal noise whose value at a position does not depend on the size.

    jax.random.normal's values change with the array's width; drawing square blocks,
    each from its row and column, keeps the top-left part of a larger image's noise
    equal to a smaller one's, so bands and tiles see what the whole image sees.
    """
    rows, columns = -(-height // NOISE_BLOCK), -(-width // NOISE_BLOCK)

    def block(row, column):
        block_key = jax.random.fold_in(jax.random.fold_in(key, row), column)
        return jax.random.normal(block_key, (NOISE_BLOCK, NOISE_BLOCK, channels))

    blocks = jax.vmap(jax.vmap(block, (None, 0)), (0, None))(
        jnp.arange(rows), jnp.arange(columns)
    )
    noise = blocks.transpose(0, 2, 1, 3, 4)
    noise = noise.reshape(rows * NOISE_BLOCK, columns * NOISE_BLOCK, channels)
    return noise[:height, :width]
