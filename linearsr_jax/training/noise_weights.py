"""Weights of samples by the noise of their LR images.

LPIPS and a discriminator ask for texture everywhere, and get it from noise where the
input has nothing else: the network learns to draw strokes for it. In noisy samples
they count less, and what is left to learn there is the mean, without noise. Own
definition.
"""

import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float

# Numbers of passes of a 3 x 3 binomial blur: the widest has a deviation of two pixels.
_BLURS = (0, 1, 3, 8)
# Keeps the fit of a flat image solvable; images have a variance of about 0.1.
_RIDGE = 1e-6


def added_noise(
    image_lr: Float[Array, "B h w 3"], image_hr: Float[Array, "B H W 3"]
) -> Float[Array, "B"]:
    """Measures what of an LR image is no blur of the photograph.

    The photograph is reduced to the LR image's size, and the mixture of blurs of it
    fitted that comes nearest: noise and compression are what is left.

    Args:
      image_lr, image_hr: images in [-1, 1].

    Returns:
      The root mean square of what is left, in levels of 255.
    """
    image = jax.image.resize(image_hr, image_lr.shape, "cubic")
    found = [jnp.ones_like(image)]
    for passes in range(max(_BLURS) + 1):
        if passes in _BLURS:
            found.append(image)
        image = _blur(image)
    basis = jnp.stack([x.reshape(len(x), -1) for x in found], axis=-1)
    target = image_lr.reshape(len(image_lr), -1, 1)
    gram = basis.mT @ basis / basis.shape[1]
    gram += _RIDGE * jnp.eye(basis.shape[2])
    weights = jnp.linalg.solve(gram, basis.mT @ target / basis.shape[1])
    left = target - basis @ weights
    return 255 / 2 * jnp.sqrt(jnp.mean(jnp.square(left), axis=(1, 2)))


def _blur(image):
    for axis in (1, 2):
        around = [(0, 0)] * 4
        around[axis] = (1, 1)
        padded = jnp.pad(image, around, mode="edge")
        size = image.shape[axis]
        before, after = (
            jax.lax.slice_in_dim(padded, start, start + size, axis=axis)
            for start in (0, 2)
        )
        image = (before + 2 * image + after) / 4
    return image


def clean_weights(
    image_lr: Float[Array, "B h w 3"],
    image_hr: Float[Array, "B H W 3"],
    *,
    half_at: float,
) -> Float[Array, "B"]:
    """Computes weights in (0, 1] that fall with `added_noise`.

    Args:
      image_lr, image_hr: images in [-1, 1].
      half_at: noise of weight 1/2, in levels of 255, above 0.
    """
    return 1 / (1 + jnp.square(added_noise(image_lr, image_hr) / half_at))
