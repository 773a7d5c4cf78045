"""LPIPS v0.1 with VGG16: the equation of `lpips` on another network's features.

A network that was trained with AlexNet's LPIPS can please AlexNet alone; this is a
judge that it has not met. Features are those of VGG16's five stages, halved in
between by the largest of 2x2. The weights come with the extra "judges", see `vgg16`.
"""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.metrics import vgg16
from linearsr_jax.metrics.lpips import compare_features, scale_colours


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


def _extract(
    params: Mapping[str, Float[Array, "..."]], images: Float[Array, "B H W 3"]
) -> list[Float[Array, "B _ _ _"]]:
    """Gives the five features of RGB images in [0, 1]."""
    return vgg16.extract_features(params, scale_colours(2 * images - 1), _max_pool)


def _max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
