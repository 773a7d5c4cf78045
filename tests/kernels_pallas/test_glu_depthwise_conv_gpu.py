"""The GPU kernel without a GPU: lowered, and what it does not take."""

import functools

import jax
import jax.numpy as jnp
import pytest

from kernels_pallas import glu_depthwise_conv
from kernels_pallas.glu_depthwise_conv import gpu
from kernels_pallas.testing import (
    GPU,
    lower,
    on,
    random_arrays,
    value_and_gradients,
)
from kernels_pallas.tuning import GluOnGpu, tuned

on_gpu = functools.partial(glu_depthwise_conv, implementation="gpu")


def shapes(sizes):
    channels = sizes[-1]
    return sizes, (3, 3, channels), (channels,), (*sizes[:-1], channels // 2)


def run(*arrays_and_cotangent):
    *arrays, cotangent = arrays_and_cotangent
    return value_and_gradients(on_gpu, arrays, cotangent)


@pytest.mark.parametrize("expanded", [64, 2880, 5600])
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
        ((1, 2, 3, 2 * 60), jnp.float32, "E = 60"),
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
    # More would not be one load of 4 bytes or 8.
    assert tuned(GluOnGpu).channels in (gpu.THREADS, 2 * gpu.THREADS)


@pytest.mark.parametrize(
    ("batch", "side", "rows"), [(1, 32, 2), (1, 64, 4), (1, 128, 8), (4, 32, 8)]
)
def test_bands_leave_two_programs_for_each_multiprocessor(batch, side, rows):
    blocks = -(-5600 // tuned(GluOnGpu).channels)
    with on(GPU):
        chosen = gpu._choose(tuned(GluOnGpu).rows, batch, side, blocks)
    assert chosen == rows


def test_the_bias_of_the_input_is_added_as_it_is_loaded():
    sizes = shapes((1, 32, 32, 2 * 5600))
    structs = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in (*sizes[:3], sizes[2])]
    text = lower(on_gpu, GPU, *structs)
    lines = [line for line in text.splitlines() if "stablehlo.add" in line]
    assert not [line for line in lines if "32x32x11200" in line]
