"""The GPU kernels lowered for an H100, on any machine; and what they do not take."""

import functools

import jax
import jax.numpy as jnp
import pytest

from kernels_pallas import linear_attention, linear_attention_qkv
from kernels_pallas.linear_attention import gpu, reference
from kernels_pallas.testing import GPU, lower, on, random_arrays, value_and_gradients
from kernels_pallas.tuning import AttentionOnGpu, tuned

attention = functools.partial(linear_attention, implementation="gpu")


def both_ways(q, k, v, grad):
    return value_and_gradients(attention, (q, k, v), grad)


# (heads, tokens) of the presets 600m, 1600m and nano.
@pytest.mark.parametrize(("heads", "tokens"), [(36, 1024), (70, 4096), (2, 16384)])
def test_lowers_at_real_shapes(heads, tokens):
    """Layouts and shared memory are checked here, ptxas and registers are not."""
    array = jax.ShapeDtypeStruct((2, tokens, heads, 32), jnp.bfloat16)
    text = lower(both_ways, GPU, *[array] * 4)
    # State and output; the gradients of both.
    assert text.count("@mosaic_gpu_v2") == 4


def test_columns_of_one_array_are_read_where_they_lie():
    """No slice of the 6,720 channels is made before the kernels, as by jnp.split."""
    qkv = jax.ShapeDtypeStruct((1, 1024, 3 * 70 * 32), jnp.bfloat16)

    def forward(qkv):
        return linear_attention_qkv(qkv, 70, implementation="gpu")

    def forward_of_three(qkv):
        return attention(*reference.split(qkv, 70))

    def slices(function):
        text = lower(function, GPU, qkv)
        assert text.count("@mosaic_gpu_v2") == 2
        lines = text.splitlines()
        return sum("stablehlo.slice" in x and "1024x6720" in x for x in lines)

    assert (slices(forward), slices(forward_of_three)) == (0, 3)


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "blocks"),
    [(1, 1024, 70, 140), (1, 4096, 70, 140), (1, 1024, 36, 144), (1, 64, 2, 1)],
)
def test_blocks_fill_the_device_where_there_is_work(batch, tokens, heads, blocks):
    array = jax.ShapeDtypeStruct((batch, tokens, heads, 32), jnp.bfloat16)
    with on(GPU):
        grid = gpu._Grid.of(0.0, array)
    assert grid.chunks * grid.steps * gpu.ROWS == tokens
    assert batch * grid.pairs * grid.chunks == blocks
    assert grid.steps <= tuned(AttentionOnGpu).steps


def test_lowers_over_experts():
    array = jax.ShapeDtypeStruct((4, 1, 128, 4, 32), jnp.bfloat16)
    text = lower(jax.vmap(both_ways), GPU, *[array] * 4)
    assert text.count("@mosaic_gpu_v2") == 4


@pytest.mark.parametrize(
    ("dtype", "sizes", "floor", "reason"),
    [
        (jnp.float32, (1, 64, 2, 32), 0.0, "float32[1, 64, 2, 32]"),
        (jnp.bfloat16, (1, 64, 2, 16), 0.0, "K must be 32"),
        (jnp.bfloat16, (1, 64, 3, 32), 0.0, "H must be even"),
        (jnp.bfloat16, (1, 65, 2, 32), 0.0, "N must be a multiple of 64"),
        (jnp.bfloat16, (0, 64, 2, 32), 0.0, "empty"),
        (jnp.bfloat16, (1, 64, 2, 32), 0.1, "floor must be 0"),
    ],
)
def test_what_is_not_taken_is_named(dtype, sizes, floor, reason):
    with on(GPU), pytest.raises(NotImplementedError) as error:
        attention(*random_arrays(*[sizes] * 3, dtype=dtype), floor=floor)
    assert reason in str(error.value)
    assert "'NVIDIA H100 80GB HBM3'" in str(error.value)
