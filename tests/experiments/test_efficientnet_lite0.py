"""EfficientNet-Lite0's weights: norms folded, every tensor once, damage named."""

import numpy as np
import pytest
from safetensors.numpy import load

from experiments.shipped_weights.efficientnet_lite0 import convert
from linearsr_jax.convert.safetensors_stream import ConvertError
from linearsr_jax.tagging.efficientnet_lite import parameter_shapes
from linearsr_jax.tagging.light import NETWORK_FILE

# Channels in and out, kernel, and whether it widens, of the paper's Table 1.
BLOCKS = [
    (32, 16, 3, False),
    *[(16, 24, 3, True), (24, 24, 3, True)],
    *[(24, 40, 5, True), (40, 40, 5, True)],
    *[(40, 80, 3, True), (80, 80, 3, True), (80, 80, 3, True)],
    *[(80, 112, 5, True), (112, 112, 5, True), (112, 112, 5, True)],
    *[(112, 192, 5, True)] + 3 * [(192, 192, 5, True)],
    (192, 320, 3, True),
]


def published_shapes():
    shapes = {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}

    def conv(name, norm, *shape):
        shapes[f"{name}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    conv("_conv_stem", "_bn0", 32, 3, 3, 3)
    conv("_conv_head", "_bn1", 1280, 320, 1, 1)
    for index, (narrow, out, kernel, is_wide) in enumerate(BLOCKS):
        block = f"_blocks.{index}"
        wide = 6 * narrow if is_wide else narrow
        if is_wide:
            conv(f"{block}._expand_conv", f"{block}._bn0", wide, narrow, 1, 1)
        depthwise = (wide, 1, kernel, kernel)
        conv(f"{block}._depthwise_conv", f"{block}._bn1", *depthwise)
        conv(f"{block}._project_conv", f"{block}._bn2", out, wide, 1, 1)
    return shapes


@pytest.fixture(scope="module")
def published():
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in published_shapes().items()
    }
    return {name: lambda array=array: array for name, array in arrays.items()}


def test_shapes_of_what_ships():
    shapes = parameter_shapes()
    # 4,652,008 with two numbers a norm, of which one is folded into the kernels.
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 4_652_008 - 21_008
    shipped = load(NETWORK_FILE.read_bytes())
    assert {name: array.shape for name, array in shipped.items()} == dict(shapes)
    assert {array.dtype for array in shipped.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(array).all() for array in shipped.values())


def test_folding(published):
    arrays = convert(published)
    assert {name: array.shape for name, array in arrays.items()} == parameter_shapes()
    # The norm of what a convolution gives, for one patch of one channel.
    patch = np.random.default_rng(1).standard_normal((3, 3, 3))
    theirs = {name: np.float64(read()) for name, read in published.items()}
    y = np.sum(theirs["_conv_stem.weight"][7].transpose(1, 2, 0) * patch)
    y = (y - theirs["_bn0.running_mean"][7]) / np.sqrt(
        theirs["_bn0.running_var"][7] + 0.001
    )
    y = y * theirs["_bn0.weight"][7] + theirs["_bn0.bias"][7]
    kernel, bias = (arrays[f"stem.conv.{part}"][..., 7] for part in ("kernel", "bias"))
    np.testing.assert_allclose(np.sum(kernel * patch) + bias, y, rtol=1e-5)


def test_damage_is_named(published):
    some = dict(published)
    some["extra"] = some.pop("_fc.bias")
    with pytest.raises(ConvertError, match=r"unknown=\['extra'\], missing=\['_fc.bias"):
        convert(some)
    wide = {**published, "_fc.bias": lambda: np.zeros(999)}
    with pytest.raises(ConvertError, match=r"another shape: \['fc.bias'\]"):
        convert(wide)
