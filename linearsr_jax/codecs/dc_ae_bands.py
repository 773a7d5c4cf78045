"""Convolutions of a large image in bands of rows, exactly.

A band is computed with as many rows around it as its pixels can depend on; what the
window's own border spoils is cut away. The windows have one size, so one compiled
loop does them all: at the top and bottom of the image they are shifted inwards
rather than padded, and there the convolutions' zeros are the image's own.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from linearsr_jax.core.array_types import Array, Float


def decoder_halo(depths: Sequence[int]) -> int:
    """Counts the rows on either side that a row of a decoder's last stages depends on.

    Args:
      depths: residual blocks of the stages, full resolution first; each stage is a
        doubling of the size, a convolution and two convolutions a block. One more
        convolution comes last.
    """
    reach = 1
    for depth in depths:
        # Seen from half the size, a reach of n rows is one of n / 2, rounded up.
        reach = -(-(reach + 1 + 2 * depth) // 2)
    return reach


def map_bands(
    function: Callable[[Float[Array, "B h W C"]], Float[Array, "B sh sW c"]],
    x: Float[Array, "B H W C"],
    *,
    rows: int,
    halo: int,
) -> Float[Array, "B sH sW c"]:
    """Returns function(x), computed for windows of rows + 2 halo rows at a time.

    Args:
      function: function that enlarges by s, and whose output at a row depends on at
        most halo rows of input on either side.
      x: whole input; computed at once if it is no higher than a window.
      rows: rows of input that each window adds to the output; at least 1.
      halo: see function.
    """
    height = x.shape[1]
    window = rows + 2 * halo
    if window >= height:
        return function(x)
    part = jax.eval_shape(function, x[:, :window])
    scale = part.shape[1] // window
    shape = (part.shape[0], scale * height, *part.shape[2:])

    def add_band(index, out):
        # The last band overlaps the one before, to be as high as the others.
        first = jnp.minimum(index * rows, height - rows)
        start = jnp.clip(first - halo, 0, height - window)
        y = function(lax.dynamic_slice_in_dim(x, start, window, axis=1))
        band = lax.dynamic_slice_in_dim(y, scale * (first - start), scale * rows, 1)
        return lax.dynamic_update_slice_in_dim(out, band, scale * first, 1)

    count = -(-height // rows)
    return lax.fori_loop(0, count, add_band, jnp.zeros(shape, part.dtype))
