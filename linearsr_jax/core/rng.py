"""Makes random streams, in which every draw is a fold of (seed, stream name, indices).

No key is carried along or split, so a draw can be repeated from its coordinates alone:
after a resume, in another process, or for another image size.
"""

import functools
import zlib

import jax
import numpy as np

from linearsr_jax.core.array_types import Array, Int, Key

# Side of the noise blocks in latent pixels. Changing it changes what a seed means.
NOISE_BLOCK = 32


def stream_key(seed: int, name: str, *indices: int | Int[Array, ""]) -> Key[Array, ""]:
    """Makes the key of a named stream at some indices (train step, sample, ...).

    Args:
      seed: seed of the run or image, 0 <= seed < 2**32.
      name: name of the stream; streams with different names are independent.
      indices: numbers folded in one after another; may be traced.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key


def block_noise(
    key: Key[Array, ""], height: int, width: int, channels: int
) -> np.ndarray:
    """Draws unit normal noise whose value at a position does not depend on the size.

    The values of jax.random.normal change with the width of the array. Here square
    blocks are drawn, each from its row and column, so the noise of a smaller image is
    the top-left part of that of a larger one, and bands see what the whole image sees.

    Args:
      key: random key.
      height, width: size in latent pixels.
      channels: number of latent channels.

    Returns:
      float32 (height, width, channels), on the host.
    """
    blocks = [
        [
            np.asarray(_noise_block(key, row, column, channels))
            for column in range(-(-width // NOISE_BLOCK))
        ]
        for row in range(-(-height // NOISE_BLOCK))
    ]
    rows = [np.concatenate(row, axis=1) for row in blocks]
    return np.concatenate(rows)[:height, :width]


# Compiled once for all image sizes. As part of the program of each size, the random
# bits alone would take longer to compile than the network.
@functools.partial(jax.jit, static_argnames="channels")
def _noise_block(key, row, column, channels):
    block_key = jax.random.fold_in(jax.random.fold_in(key, row), column)
    return jax.random.normal(block_key, (NOISE_BLOCK, NOISE_BLOCK, channels))
