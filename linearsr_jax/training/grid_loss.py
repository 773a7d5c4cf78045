"""A loss term against the grid that `metrics.grid_energy` measures.

A network that makes 4x4 pixels of its output from each pixel of its input can leave a
pattern with that period, which neither LPIPS nor a discriminator punishes in soft
areas. The error is averaged over all cells of a window, place by place within the cell:
a pattern stays, everything else averages away. Flat windows count most, because that is
where people see it. Own definition.
"""

import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.core.scale import SCALE

# Cells of SCALE x SCALE pixels along a window's side: windows are 32 pixels wide.
CELLS = 8
# Contrast at which a window counts half as much as a flat one: 2.5 levels of 255.
CONTRAST = 0.02
# Below a tenth of a level the root is rounded off, for a finite gradient at 0.
_ROUNDING = 1e-3


def grid_term(
    image_hat: Float[Array, "B H W 3"], image_hr: Float[Array, "B H W 3"]
) -> Float[Array, "B"]:
    """Computes the strength of the grid in the error, over the truth's contrast.

    Args:
      image_hat, image_hr: images in [-1, 1]; H and W are at least 32, and what is right
        of and below the last whole window does not count.

    Returns:
      The mean over windows of pattern / (contrast + CONTRAST), where pattern is the
      root mean square, over a cell's places and the colours, of the mean error at each
      place less its mean over the cell, and contrast is the truth's standard deviation.

    Raises:
      ValueError: the images have no whole window.
    """
    side = SCALE * CELLS
    batch, height, width, colours = image_hr.shape
    rows, columns = height // side, width // side
    if not rows or not columns:
        raise ValueError(
            f"the loss term grid needs crops of at least {side} pixels, got "
            f"{height}x{width}"
        )

    def windows(image):
        image = image[:, : rows * side, : columns * side]
        return image.reshape(batch, rows, CELLS, SCALE, columns, CELLS, SCALE, colours)

    places = jnp.mean(windows(image_hat - image_hr), axis=(2, 5))  # (B, r, S, c, S, 3)
    pattern = places - jnp.mean(places, axis=(2, 4), keepdims=True)
    energy = jnp.mean(jnp.square(pattern), axis=(2, 4, 5))
    variance = jnp.var(windows(image_hr), axis=(2, 3, 5, 6))
    contrast = jnp.sqrt(jnp.mean(variance, axis=-1))
    strength = jnp.sqrt(energy + _ROUNDING**2) - _ROUNDING
    return jnp.mean(strength / (contrast + CONTRAST), axis=(1, 2))
