"""Sharpens photographs for the network to aim at, where the input is noisy.

Of a noisy input the mean of all photographs that it may come from is soft, softer than
the eye and LPIPS like. What comes nearest to their sharpened versions is that mean,
sharpened: edges get crisp, and no texture is invented. Of a clean input the photograph
itself is the aim. Real-ESRGAN (X. Wang et al., 2021) trains towards sharpened
photographs, too, with a wider blur and a mask, whatever the input.
"""

import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float

# Standard deviation of the blur, in pixels: what x4 loses lies below it.
SIGMA = 3.0


def sharpened(
    image: Float[Array, "B H W 3"], amounts: Float[Array, "B"]
) -> Float[Array, "B H W 3"]:
    """Adds `amounts` of what a Gaussian of SIGMA takes away; the range is not kept."""
    rows, columns = (_blur_matrix(size) for size in image.shape[1:3])
    blurred = jnp.einsum(
        *("ih,bhwc,jw->bijc", rows, image, columns),
        precision=jax.lax.Precision.HIGHEST,
    )
    return image + amounts[:, None, None, None] * (image - blurred)


def _blur_matrix(size: int) -> Float[Array, "N N"]:
    # Beyond the border there is nothing, and no weight.
    places = jnp.arange(size)
    weights = jnp.exp(-jnp.square((places[:, None] - places) / SIGMA) / 2)
    return weights / jnp.sum(weights, axis=1, keepdims=True)
