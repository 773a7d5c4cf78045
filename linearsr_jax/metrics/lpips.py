"""LPIPS v0.1 with AlexNet, in JAX.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric" (CVPR 2018, arXiv 1801.03924), sec. 3. With f_l the output of AlexNet's l-th
ReLU, divided at each position by its length over channels, and w_l >= 0,

    d(a, b) = sum over l of mean over positions of w_l . (f_l(a) - f_l(b))^2

The weights are package data, weights/lpips_alexnet.safetensors. Their source and
licences are in weights/LPIPS_LICENSE.txt;
experiments/shipped_weights/lpips_alexnet.py made the file. LPIPS is also a training
loss: where all features of a layer are zero, the gradient of the length is not finite,
but the ReLU before it lets none of it through.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from safetensors.numpy import load

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.core.convolution import convolve
from linearsr_jax.metrics.psnr_ssim import check_pair

WEIGHTS_FILE = "lpips_alexnet.safetensors"
# Smallest side, rounded up, for which the last layers have a position left.
MIN_SIDE = 32

# AlexNet as torchvision has it. Per layer: kernel (height, width, in, out), stride,
# padding, and whether a 3x3 max-pool of stride 2 comes before it.
_LAYERS = (
    ((11, 11, 3, 64), 4, 2, False),
    ((5, 5, 64, 192), 1, 2, True),
    ((3, 3, 192, 384), 1, 1, True),
    ((3, 3, 384, 256), 1, 1, False),
    ((3, 3, 256, 256), 1, 1, False),
)
# Map [-1, 1] to the colour statistics that AlexNet was trained with: 2m - 1 and 2s,
# with ImageNet's mean m and standard deviation s of images in [0, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

PARAMETER_SHAPES: Mapping[str, tuple[int, ...]] = {
    name: shape
    for index, (kernel, *_) in enumerate(_LAYERS)
    for name, shape in (
        (f"conv{index}.kernel", kernel),
        (f"conv{index}.bias", kernel[3:]),
        (f"lin{index}.weight", kernel[3:]),
    )
}
"""Names and shapes of the parameters, all float32; kernels are (H, W, in, out)."""


@functools.cache
def load_lpips() -> Callable[[np.ndarray, np.ndarray], float]:
    """Loads the weights, once, and makes the metric.

    Returns:
        A function (sr, hr) -> distance; lower is better. Identical images give 0 up to
        rounding (the two halves of a batch may differ in the last bit). Both are
        uint8 (H, W, 3), RGB, of the same shape and at least 32 pixels on each side;
        anything else raises ValueError. Their order does not matter. The function is
        compiled anew for each image size.

    Raises:
        ValueError: the installed weights file has missing or unknown tensors; the
            message lists them.
    """
    params = load_parameters()

    def lpips(sr: np.ndarray, hr: np.ndarray) -> float:
        check_pair(sr, hr)
        pair = jnp.asarray(np.stack([sr, hr]).astype(np.float32) / 127.5 - 1)
        return float(lpips_distance(params, pair[:1], pair[1:])[0])

    return lpips


@jax.jit
def lpips_distance(
    params: Mapping[str, Float[Array, "..."]],
    images_a: Float[Array, "B H W 3"],
    images_b: Float[Array, "B H W 3"],
) -> Float[Array, "B"]:
    """Computes LPIPS for a batch of image pairs.

    Args:
        params: float32 arrays with the names and shapes of PARAMETER_SHAPES.
        images_a: RGB in [-1, 1], H and W at least 32.
        images_b: RGB in [-1, 1], same shape.

    Returns:
        One distance per pair, float32, >= 0.

    Raises:
        ValueError: the shapes differ or are not as above.
    """
    return compare_images(params, _features, images_a, images_b, MIN_SIDE)


def compare_images(
    params: Mapping[str, Float[Array, "..."]],
    extract: Callable[..., Sequence[Float[Array, "B _ _ _"]]],
    images_a: Float[Array, "B H W 3"],
    images_b: Float[Array, "B H W 3"],
    min_side: int,
) -> Float[Array, "B"]:
    """Computes LPIPS by a network's features.

    Args:
        params: of the network, with those of `compare_features`.
        extract: (params, RGB images in [-1, 1]) -> features.
        images_a, images_b: RGB in [-1, 1].
        min_side: what H and W must be at least.

    Returns:
        One distance per pair, float32, >= 0.

    Raises:
        ValueError: the shapes differ or are not as above.
    """
    shape = images_a.shape
    if shape != images_b.shape or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            "LPIPS needs two batches of one shape (B, H, W, 3), "
            f"got {shape} and {images_b.shape}"
        )
    if min(shape[1:3]) < min_side:
        raise ValueError(
            f"LPIPS needs both sides >= {min_side} pixels, got {shape[1]}x{shape[2]}"
        )
    # Each by itself: in training one of the two needs no gradient.
    features = (extract(params, images) for images in (images_a, images_b))
    return compare_features(params, *features)


def compare_features(
    params: Mapping[str, Float[Array, "..."]],
    features_a: Sequence[Float[Array, "B _ _ _"]],
    features_b: Sequence[Float[Array, "B _ _ _"]],
) -> Float[Array, "B"]:
    """Sums the weighted distances over the layers: the equation of this module.

    Args:
        params: holds lin0.weight, lin1.weight, ...: one weight per channel.
        features_a: the outputs of the layers, in order, for one batch of images.
        features_b: the same for another batch.

    Returns:
        One distance per pair, float32, >= 0.
    """
    distance = jnp.zeros(features_a[0].shape[0])
    for index, (a, b) in enumerate(zip(features_a, features_b, strict=True)):
        weighted = jnp.square(_unit(a) - _unit(b)) * params[f"lin{index}.weight"]
        distance += jnp.mean(jnp.sum(weighted, axis=-1), axis=(1, 2))
    return distance


def scale_colours(images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Takes RGB in [-1, 1] to ImageNet's mean 0 and deviation 1 per channel."""
    return (images - jnp.array(_SHIFT)) / jnp.array(_SCALE)


def _unit(feature: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    length = jnp.sqrt(jnp.sum(jnp.square(feature), axis=-1, keepdims=True))
    return feature / (length + 1e-10)


def _max_pool(x, axis):
    """The largest of three along an axis, every second place.

    By slices: the gradient of XLA's window is ten times slower on CPU.
    """
    count = (x.shape[axis] - 3) // 2 + 1
    first, second, third = (
        lax.slice_in_dim(x, start, start + 2 * count - 1, 2, axis) for start in range(3)
    )
    return jnp.maximum(jnp.maximum(first, second), third)


def _features(
    params: Mapping[str, Float[Array, "..."]], images: Float[Array, "B H W 3"]
) -> list[Float[Array, "B _ _ _"]]:
    """Computes the outputs of AlexNet's five ReLUs."""
    x = scale_colours(images)
    features = []
    for index, (_, stride, padding, is_pooled) in enumerate(_LAYERS):
        if is_pooled:
            x = _max_pool(_max_pool(x, 1), 2)
        x = convolve(
            x,
            params[f"conv{index}.kernel"],
            stride,
            padding,
            # By default accelerators round to bfloat16 or TF32, which changes digits.
            lax.Precision.HIGHEST,
        )
        # Not jnp.maximum: the gradient of relu is exactly 0 where x <= 0.
        x = jax.nn.relu(x + params[f"conv{index}.bias"])
        features.append(x)
    return features


def load_parameters() -> dict[str, Float[Array, "..."]]:
    """Reads the weights and checks them against PARAMETER_SHAPES; see `load_lpips`."""
    file = resources.files("linearsr_jax") / "weights" / WEIGHTS_FILE
    tensors = load(file.read_bytes())
    wrong = sorted(
        name
        for name in tensors.keys() | PARAMETER_SHAPES.keys()
        if name not in tensors or tensors[name].shape != PARAMETER_SHAPES.get(name)
    )
    if wrong:
        raise ValueError(
            f"{file}: missing, unknown or misshapen tensors: {', '.join(wrong)}; "
            "install the package again"
        )
    return {name: jnp.asarray(tensor) for name, tensor in tensors.items()}
