"""DISTS: structure and texture compared by statistics of VGG16's features, in JAX.

Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity"
(IEEE TPAMI 44(5), 2022, arXiv 2004.07728), sec. 3. Over the image itself and VGG16's
five stages, with mean m, variance v and covariance c of a channel over its positions,

    l = (2 m_a m_b + 1e-6) / (m_a^2 + m_b^2 + 1e-6)            (eq. 4, texture)
    s = (2 c_ab + 1e-6) / (v_a + v_b + 1e-6)                   (eq. 5, structure)
    d(a, b) = 1 - sum over channels of (alpha l + beta s)      (eq. 6)

where alpha and beta are >= 0 and sum to 1. Between the stages a Hanning-weighted root
mean square halves the features, in place of the largest value (eq. 2). Texture that
differs only in where it lies costs little, unlike in LPIPS.

alpha and beta are package data, weights/dists.safetensors; source and licence stand
in weights/DISTS_LICENSE.txt. VGG16's weights come with the extra "judges", see
`vgg16`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import jax.numpy as jnp
import numpy as np
from jax import lax
from safetensors.numpy import load

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.metrics import vgg16

WEIGHTS_FILE = "dists.safetensors"
# Channels of the image and of the five stages, side by side.
CHANNELS = 3 + sum(stage[-1] for stage in vgg16.STAGES)

# ImageNet's mean and standard deviation of RGB in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_EPSILON = 1e-6
# Hanning's window of five without its zeros at the ends, summing to 1.
_WINDOW = (0.25, 0.5, 0.25)


@functools.cache
def load_dists() -> Callable[[np.ndarray, np.ndarray], float]:
    """Loads the weights, once, and returns the metric.

    Returns:
        A function (sr, hr) -> distance in [0, 1] for all but odd images, lower is
        better; identical images give 0 to rounding. See `vgg16.make_pair_metric` for
        what it takes and raises.

    Raises:
        vgg16.VggWeightsError: VGG16's weights are not installed.
        ValueError: the weight file of this installation is not whole.
    """
    params = vgg16.load_vgg16() | load_parameters()
    return vgg16.make_pair_metric(params, _extract, _compare)


def load_parameters() -> dict[str, Float[Array, "C"]]:
    """Reads alpha and beta, float32 of CHANNELS numbers each; see `load_dists`."""
    file = resources.files("linearsr_jax") / "weights" / WEIGHTS_FILE
    tensors = load(file.read_bytes())
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != {"alpha": (CHANNELS,), "beta": (CHANNELS,)}:
        raise ValueError(
            f"{file}: holds {shapes}, not alpha and beta of {CHANNELS} numbers; "
            "install the package again"
        )
    return {name: jnp.asarray(tensor) for name, tensor in tensors.items()}


def _extract(
    params: Mapping[str, Float[Array, "..."]], images: Float[Array, "B H W 3"]
) -> list[Float[Array, "B _ _ _"]]:
    """Gives RGB images in [0, 1], unchanged, and their five features."""
    scaled = (images - jnp.array(_MEAN)) / jnp.array(_DEVIATION)
    return [images, *vgg16.extract_features(params, scaled, _pool)]


def _pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Halves by the weighted root mean square of 3x3, zeros beyond the edge."""
    power = jnp.pad(jnp.square(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    # As sums of slices: XLA's depthwise convolution takes several times as long on CPU.
    for axis in (1, 2):
        end = x.shape[axis]
        a, b, c = (lax.slice_in_dim(power, i, i + end, 2, axis) for i in range(3))
        power = _WINDOW[0] * a + _WINDOW[1] * b + _WINDOW[2] * c
    # Keeps the root's gradient finite where all is 0.
    return jnp.sqrt(power + 1e-12)


def _compare(
    params: Mapping[str, Float[Array, "..."]],
    features_a: Sequence[Float[Array, "B _ _ _"]],
    features_b: Sequence[Float[Array, "B _ _ _"]],
) -> Float[Array, "B"]:
    """Computes eq. 4 to 6 from the features of `_extract`."""
    textures, structures = [], []
    for a, b in zip(features_a, features_b, strict=True):
        mean_a, mean_b = (jnp.mean(x, (1, 2), keepdims=True) for x in (a, b))
        variances = jnp.mean(jnp.square(a - mean_a) + jnp.square(b - mean_b), (1, 2))
        covariance = jnp.mean((a - mean_a) * (b - mean_b), (1, 2))
        mean_a, mean_b = mean_a[:, 0, 0], mean_b[:, 0, 0]
        squares = jnp.square(mean_a) + jnp.square(mean_b)
        textures.append((2 * mean_a * mean_b + _EPSILON) / (squares + _EPSILON))
        structures.append((2 * covariance + _EPSILON) / (variances + _EPSILON))
    alpha, beta = params["alpha"], params["beta"]
    similarity = jnp.concatenate(textures, -1) @ alpha
    similarity += jnp.concatenate(structures, -1) @ beta
    return 1 - similarity / (jnp.sum(alpha) + jnp.sum(beta))
