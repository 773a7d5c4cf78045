"""Random views of image pairs, for perceptual losses.

A network of strided layers sees an image on a grid of its own: AlexNet's first
convolution steps four pixels. Given the image as it is, training finds patterns of just
that period, which the loss likes and nobody else. Seen through a window that is moved
and scaled at random, no grid stays in place.
"""

import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float, Key

# A view's side over the image's, and the limits of its scale: the window that it shows,
# side / scale, is never larger than the image.
SIDE = 0.75
SCALES = (0.75, 4 / 3)


def draw_views(key: Key[Array, ""], count: int) -> Float[Array, "B 3"]:
    """Draws (scale, down, across) for each image.

    Half of the views are not scaled: what is finest stays as it is there. down and
    across, in [0, 1), say where the window lies in what room there is.
    """
    key_scale, key_place, key_kind = jax.random.split(key, 3)
    low, high = jnp.log(jnp.array(SCALES))
    scale = jnp.exp(jax.random.uniform(key_scale, (count,), minval=low, maxval=high))
    is_scaled = jax.random.bernoulli(key_kind, 0.5, (count,))
    place = jax.random.uniform(key_place, (count, 2))
    return jnp.column_stack([jnp.where(is_scaled, scale, 1.0), place])


def take_view(
    image: Float[Array, "B H W 3"], views: Float[Array, "B 3"]
) -> Float[Array, "B y x 3"]:
    """Shows the images through their views, antialiased cubic; whole pixels at scale 1.

    Args:
      image: image of any range.
      views: from `draw_views`.

    Returns:
      y = SIDE H, x = SIDE W, rounded down.
    """
    height, width, channels = image.shape[1:]
    shape = (int(SIDE * height), int(SIDE * width), channels)

    def take(image, view):
        scale, place = view[0], view[1:]
        sizes = jnp.array([height, width], jnp.float32)
        room = jnp.maximum(sizes - jnp.array(shape[:2]) / scale, 0.0)
        # floor: what is not scaled is not interpolated.
        start = jnp.where(scale == 1.0, jnp.floor(place * (room + 1)), place * room)
        return jax.image.scale_and_translate(
            image,
            shape,
            (0, 1),
            jnp.stack([scale, scale]),
            -start * scale,
            "cubic",
            precision=jax.lax.Precision.HIGHEST,
        )

    return jax.vmap(take)(image, views)
