"""LPIPS v0.1 with VGG16: the equation of `lpips` on another network's features.

A network that was trained with AlexNet's LPIPS can please AlexNet alone; this is
another judge, and another loss. Features are those of VGG16's five stages, halved in
between by the largest of 2x2. The weights come with the extra "judges", see `vgg16`.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.metrics import vgg16
from linearsr_jax.metrics.lpips import (
    compare_features,
    compare_images,
    scale_colours,
)


@functools.cache
def load_lpips_vgg() -> Callable[[np.ndarray, np.ndarray], float]:
    """Loads the weights, once, and returns the metric.

    Returns:
        A function (sr, hr) -> distance, lower is better; identical images give 0.
        See `vgg16.make_pair_metric` for what it takes and raises.

    Raises:
        vgg16.VggWeightsError: the weights are not installed.
    """
    return vgg16.make_pair_metric(vgg16.load_vgg16(), _extract, compare_features)


@jax.jit
def lpips_vgg_distance(
    params: Mapping[str, Float[Array, "..."]],
    images_a: Float[Array, "B H W 3"],
    images_b: Float[Array, "B H W 3"],
) -> Float[Array, "B"]:
    """Computes LPIPS-VGG of RGB in [-1, 1], with `vgg16.load_vgg16`'s params.

    For the rest see `lpips.compare_images`; sides are at least vgg16.MIN_SIDE.
    """
    return compare_images(params, _features, images_a, images_b, vgg16.MIN_SIDE)


def _extract(
    params: Mapping[str, Float[Array, "..."]], images: Float[Array, "B H W 3"]
) -> list[Float[Array, "B _ _ _"]]:
    """Gives the five features of RGB images in [0, 1]."""
    return _features(params, 2 * images - 1)


def _features(
    params: Mapping[str, Float[Array, "..."]], images: Float[Array, "B H W 3"]
) -> list[Float[Array, "B _ _ _"]]:
    """Gives the five features of RGB images in [-1, 1]."""
    return vgg16.extract_features(params, scale_colours(images), _max_pool)


def _max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """The largest of 2x2; by slices, since XLA's window has a slow gradient on CPU."""
    for axis in (1, 2):
        end = x.shape[axis] // 2 * 2
        even, odd = (lax.slice_in_dim(x, s, end, 2, axis) for s in (0, 1))
        x = jnp.maximum(even, odd)
    return x
