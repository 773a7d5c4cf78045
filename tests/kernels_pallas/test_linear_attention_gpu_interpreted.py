"""The GPU kernels interpreted on CPU, against float64.

The interpreter reports data races and starts memory as NaN.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu
from jax.sharding import AbstractDevice

from kernels_pallas import linear_attention, linear_attention_qkv, tuning
from kernels_pallas.linear_attention import gpu
from kernels_pallas.testing import (
    GPU,
    on,
    random_arrays,
    run_interpreted,
    value_and_gradients,
)
from tests.kernels_pallas.naive_attention import naive, naive_gradients

if not hasattr(mosaic_gpu, "force_gpu_interpret_mode"):
    pytest.skip("jax < 0.11 cannot interpret GPU kernels", allow_module_level=True)

SIZES = (2, 256, 4, 32)  # B, N, H, K
# On 132 multiprocessors a block would take one step: there is too little work.
SMALL_GPU = AbstractDevice(GPU.device_kind, 1, "gpu")


@pytest.fixture(autouse=True)
def _two_blocks_of_two_steps():
    with tuning.trying(tuning.AttentionOnGpu(steps=2, stages=2)):
        with on(SMALL_GPU):
            grid = gpu._Grid.of(0.0, jax.ShapeDtypeStruct(SIZES, jnp.bfloat16))
        assert (grid.steps, grid.chunks) == (2, 2)
        yield


def forward_and_gradients(q, k, v, grad):
    attention = functools.partial(linear_attention, implementation="gpu")

    def run(q, k, v, grad):
        return value_and_gradients(attention, (q, k, v), grad)

    out, gradients = run_interpreted(run, q, k, v, grad, device=SMALL_GPU)
    return out, *gradients


def assert_rounded_once(actual, q, k, v, grad):
    """Half a unit in the last place of bfloat16, 2^-8 of a value, and little more."""
    expected = naive(q, k, v), *naive_gradients(q, k, v, grad)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        error = np.abs(np.asarray(one, np.float64) - other)
        # Where the sum cancels, the error of two pieces, 2^-17 of a factor, is left.
        assert np.all(
            error <= 1.01 * 2**-8 * np.abs(other) + 2**-16 * np.abs(other).max()
        )


def test_equals_the_naive_form_and_repeats_bitwise():
    arrays = random_arrays(*[SIZES] * 4, dtype=jnp.bfloat16)
    first = forward_and_gradients(*arrays)
    assert_rounded_once(first, *arrays)
    for one, other in zip(first, forward_and_gradients(*arrays), strict=True):
        np.testing.assert_array_equal(one, other)


def test_columns_of_one_array_give_the_same_bits():
    q, k, v, grad = random_arrays(*[SIZES] * 4, dtype=jnp.bfloat16)
    qkv = jnp.stack([q, k, v], axis=2).reshape(*SIZES[:2], -1)

    def run(qkv, grad):
        def attention(qkv):
            return linear_attention_qkv(qkv, SIZES[2], implementation="gpu")

        return value_and_gradients(attention, (qkv,), grad)

    out, (dqkv,) = run_interpreted(run, qkv, grad, device=SMALL_GPU)
    expected = forward_and_gradients(q, k, v, grad)
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(
        dqkv.reshape(*SIZES[:2], 3, *SIZES[2:]), np.stack(expected[1:], axis=2)
    )


# The interpreter multiplies in numpy, which warns of what the kernel then leaves out.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_dead_rows_give_exactly_zero_and_finite_gradients():
    q, k, v, grad = random_arrays(*[SIZES] * 4, dtype=jnp.bfloat16)
    q[0, 2] = -1.0
    q[1, 255] = 0.0
    k[1, :, 3] = -1.0  # A head without a living key.
    # So large that the gradient before the relu's slope is infinite there.
    v, grad = (1e12 * v).astype(v.dtype), (1e12 * grad).astype(v.dtype)
    out, dq, dk, dv = forward_and_gradients(q, k, v, grad)
    for dead in ((0, 2), (1, 255), (1, slice(None), 3)):
        np.testing.assert_array_equal(out[dead], 0.0)
        np.testing.assert_array_equal(dq[dead], 0.0)
    for gradient in (dq, dk, dv):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("scale", [1e-6, 1e12])
def test_magnitudes_of_q_and_k(scale):
    q, k, v, grad = random_arrays(*[(1, 192, 2, 32)] * 4)
    arrays = [jnp.bfloat16(x) for x in (scale * q, scale * k, v, grad)]
    assert_rounded_once(forward_and_gradients(*arrays), *arrays)
