"""The GPU kernel without a GPU: lowered, and interpreted where jax can (0.11)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels_pallas import glu_depthwise_conv
from kernels_pallas.glu_depthwise_conv import gpu
from kernels_pallas.testing import (
    GPU,
    assert_close,
    lower,
    on,
    random_arrays,
    value_and_gradients,
)
from tests.kernels_pallas import glu_oracle

on_gpu = functools.partial(glu_depthwise_conv, implementation="gpu")


def shapes(sizes):
    channels = sizes[-1]
    return sizes, (3, 3, channels), (channels,), (*sizes[:-1], channels // 2)


def run(*arrays_and_cotangent):
    *arrays, cotangent = arrays_and_cotangent
    return value_and_gradients(on_gpu, arrays, cotangent)


def run_interpreted(*arrays):
    if not hasattr(plgpu, "InterpretGPUParams"):
        pytest.skip("jax before 0.11 has no interpreter for GPU kernels")
    params = plgpu.InterpretGPUParams()
    with plgpu.force_gpu_interpret_mode(params), on(GPU):
        return jax.block_until_ready(jax.jit(run)(*arrays))


def check(arrays, cotangent, result, tolerance):
    out, gradients = result
    assert out.dtype == arrays[0].dtype
    assert_close(out, glu_oracle.glu(*arrays), tolerance)
    expected = glu_oracle.glu_gradients(*arrays, cotangent)
    for array, actual, gradient in zip(arrays, gradients, expected, strict=True):
        assert actual.dtype == array.dtype
        assert_close(actual, gradient, tolerance)


# B, H, W, 2E. One band and a part, two blocks of channels that overlap; rows for two
# gradient programs and images a column wide; a single pixel.
@pytest.mark.parametrize(
    "sizes", [(2, 5, 3, 2 * 264), (1, 9, 1, 2 * 256), (1, 1, 1, 2 * 256)]
)
def test_equals_the_loops(sizes):
    *arrays, cotangent = random_arrays(*shapes(sizes))
    check(arrays, cotangent, run_interpreted(*arrays, cotangent), 2e-6)


def test_bfloat16_is_rounded_once_and_twice_gives_the_same_bits():
    arrays = random_arrays(*shapes((1, 3, 2, 2 * 264)), dtype=jnp.bfloat16)
    result = run_interpreted(*arrays)
    # The inputs are exact. Half a unit of bfloat16's last place is up to 2^-8.
    check(arrays[:3], arrays[3], result, 1.01 * 2**-8)
    jax.tree.map(np.testing.assert_array_equal, result, run_interpreted(*arrays))


@pytest.mark.parametrize("expanded", [2880, 5600])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lowers_at_the_presets_shapes(expanded, dtype):
    structs = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape in shapes((2, 32, 32, 2 * expanded))
    ]
    text = lower(run, GPU, *structs)
    assert text.count("custom_call @mosaic_gpu") == 2  # Forward, and the gradient.


@pytest.mark.parametrize(
    ("sizes", "dtype", "reason"),
    [
        ((1, 2, 3, 2 * 160), jnp.float32, "E = 160"),
        ((1, 2, 3, 2 * 260), jnp.float32, "E = 260"),
        ((1, 2, 3, 512), jnp.float16, "float16"),
        ((1, 0, 3, 512), jnp.float32, "no elements"),
    ],
)
def test_what_it_does_not_take(sizes, dtype, reason):
    *arrays, _ = random_arrays(*shapes(sizes), dtype=dtype)
    with on(GPU), pytest.raises(NotImplementedError, match=reason) as error:
        jax.eval_shape(on_gpu, *arrays)
    assert "H100" in str(error.value)
    assert "\n" not in str(error.value)


def test_blocks_lie_on_whole_threads():
    for block in (gpu.FORWARD_CHANNELS, gpu.BACKWARD_CHANNELS):
        assert block in (128, 256)  # More would not be one load of 4 bytes or 8.
