"""Random streams: every draw is a fold of (seed, stream name, indices).

No key is carried or split along the way, so a draw can be repeated from its
coordinates alone: after a resume, in another process, for another image size.
"""

import functools
import zlib

import jax
import numpy as np

from linearsr_jax.core.array_types import Array, Int, Key

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
) -> np.ndarray:
    """Unit normal noise whose value at a position does not depend on the size.

    jax.random.normal's values change with the array's width; drawing square blocks,
    each from its row and column, keeps the top-left part of a larger image's noise
    equal to a smaller one's, so bands and tiles see what the whole image sees.

    Args:
      key: random key.
      height, width: in latent pixels.
      channels: of the latents.

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


# Compiled once for all sizes of image: as part of each size's program, the random
# bits alone would take longer to compile than the network.
@functools.partial(jax.jit, static_argnames="channels")
def _noise_block(key, row, column, channels):
    block_key = jax.random.fold_in(jax.random.fold_in(key, row), column)
    return jax.random.normal(block_key, (NOISE_BLOCK, NOISE_BLOCK, channels))
