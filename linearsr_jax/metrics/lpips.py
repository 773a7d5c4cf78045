"""LPIPS v0.1 with AlexNet, in JAX.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric" (CVPR 2018, arXiv 1801.03924), sec. 3. With f_l the output of AlexNet's l-th
ReLU, divided at each position by its length over channels, and w_l >= 0,

    d(a, b) = sum over l of mean over positions of w_l . (f_l(a) - f_l(b))^2

The weights are package data, weights/lpips_alexnet.safetensors; their source and
licences stand in weights/LPIPS_LICENSE.txt, and convert/lpips_alexnet.py made them.
It serves as a training loss as well: where all of a layer's features are zero the
length's gradient is not finite, but the ReLU before it lets none of it through.
"""

import functools
from collections.abc import Callable, Mapping
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from safetensors.numpy import load

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.metrics.psnr_ssim import check_pair

WEIGHTS_FILE = "lpips_alexnet.safetensors"
# The smallest side that leaves the last layers a position, rounded up.
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
# Takes [-1, 1] to the colour statistics AlexNet was trained with: ImageNet's mean
# and standard deviation of [0, 1] images, m and s, as 2m - 1 and 2s.
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
    """Loads the weights, once, and returns the metric.

    Returns:
        A function (sr, hr) -> distance, lower is better; identical images give 0
        to rounding (the two halves of a batch may differ in the last bit).
        Both are uint8 (H, W, 3), RGB, of one shape with sides of at least 32
        pixels, otherwise it raises ValueError; their order does not matter. It is
        compiled anew for each image size.

    Raises:
        ValueError: the weight file of this installation lacks a tensor or has
            one too many; the message lists them.
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
    """LPIPS of a batch of image pairs.

    Args:
        params: float32 arrays named and shaped as PARAMETER_SHAPES says.
        images_a: RGB in [-1, 1], H and W at least 32.
        images_b: RGB in [-1, 1], of the same shape.

    Returns:
        One distance per pair, float32, >= 0.

    Raises:
        ValueError: the shapes differ or are not as said above.
    """
    shape = images_a.shape
    if shape != images_b.shape or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            "LPIPS needs two batches of one shape (B, H, W, 3), "
            f"got {shape} and {images_b.shape}"
        )
    if min(shape[1:3]) < MIN_SIDE:
        raise ValueError(
            f"LPIPS needs both sides >= {MIN_SIDE} pixels, got {shape[1]}x{shape[2]}"
        )
    features = _features(params, jnp.concatenate([images_a, images_b]))
    distance = jnp.zeros(shape[0])
    for index, feature in enumerate(features):
        length = jnp.sqrt(jnp.sum(jnp.square(feature), axis=-1, keepdims=True))
        unit_a, unit_b = jnp.split(feature / (length + 1e-10), 2)
        weighted = jnp.square(unit_a - unit_b) * params[f"lin{index}.weight"]
        distance += jnp.mean(jnp.sum(weighted, axis=-1), axis=(1, 2))
    return distance


def _features(
    params: Mapping[str, Float[Array, "..."]], images: Float[Array, "B H W 3"]
) -> list[Float[Array, "B _ _ _"]]:
    """The outputs of AlexNet's five ReLUs."""
    x = (images - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    features = []
    for index, (_, stride, padding, is_pooled) in enumerate(_LAYERS):
        if is_pooled:
            x = lax.reduce_window(
                x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID"
            )
        x = lax.conv_general_dilated(
            x,
            params[f"conv{index}.kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            # The accelerators' default rounds to bfloat16 or TF32: other digits.
            precision=lax.Precision.HIGHEST,
        )
        # Not jnp.maximum: relu's gradient is exactly 0 where x <= 0, whatever follows.
        x = jax.nn.relu(x + params[f"conv{index}.bias"])
        features.append(x)
    return features


def load_parameters() -> dict[str, Float[Array, "..."]]:
    """Reads the weights, checked against PARAMETER_SHAPES; see `load_lpips`."""
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
