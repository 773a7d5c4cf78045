"""The GPU kernel interpreted on CPU, against float64.

The interpreter reports data races and starts memory as NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu

from kernels_pallas.testing import (
    GPU,
    assert_close,
    on,
    random_arrays,
    run_interpreted,
    value_and_gradients,
)
from kernels_pallas.tuning import GluOnGpu, trying
from tests.kernels_pallas import glu_oracle
from tests.kernels_pallas.test_glu_depthwise_conv_gpu import on_gpu, run, shapes

if not hasattr(mosaic_gpu, "force_gpu_interpret_mode"):
    pytest.skip("jax < 0.11 cannot interpret GPU kernels", allow_module_level=True)


def check(arrays, cotangent, result, tolerance):
    out, gradients = result
    assert out.dtype == arrays[0].dtype
    assert_close(out, glu_oracle.glu(*arrays), tolerance)
    expected = glu_oracle.glu_gradients(*arrays, cotangent)
    for array, actual, gradient in zip(arrays, gradients, expected, strict=True):
        assert actual.dtype == array.dtype
        assert_close(actual, gradient, tolerance)


# B, H, W, 2E. One band and a part; rows for two gradient programs and images a column
# wide; a single pixel; half a block.
@pytest.mark.parametrize(
    "sizes",
    [(2, 5, 3, 2 * 256), (1, 9, 1, 2 * 256), (1, 1, 1, 2 * 256), (1, 3, 2, 2 * 128)],
)
def test_equals_the_loops(sizes):
    *arrays, cotangent = random_arrays(*shapes(sizes))
    result = run_interpreted(run, *arrays, cotangent, device=GPU)
    check(arrays, cotangent, result, 2e-6)


@pytest.mark.parametrize("rows", [4, 8])
def test_the_bands_of_larger_images(rows):
    """Which small ones get two rows of. Two bands, and one row of a third."""
    *arrays, cotangent = random_arrays(*shapes((1, 2 * rows + 1, 3, 2 * 256)))
    with trying(GluOnGpu(channels=256, rows=(rows,), gradient_bands=(1,))):
        result = run_interpreted(run, *arrays, cotangent, device=GPU)
    check(arrays, cotangent, result, 2e-6)


def test_overlapping_channels_twice_with_the_same_bits():
    """Without race detection: two programs write the same to what both compute."""
    *arrays, cotangent = random_arrays(*shapes((1, 3, 2, 2 * 264)))
    settings = mosaic_gpu.InterpretGPUParams(uninitialized_memory="nan")
    with mosaic_gpu.force_gpu_interpret_mode(settings), on(GPU):
        first, second = (jax.jit(run)(*arrays, cotangent) for _ in range(2))
        jax.block_until_ready(second)
    check(arrays, cotangent, first, 2e-6)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_bfloat16_is_rounded_once():
    *arrays, cotangent = random_arrays(*shapes((1, 3, 2, 512)), dtype=jnp.bfloat16)
    result = run_interpreted(run, *arrays, cotangent, device=GPU)
    # The inputs are exact. Half a unit of bfloat16's last place is up to 2^-8.
    check(arrays, cotangent, result, 1.01 * 2**-8)


@pytest.mark.parametrize("expanded", [64, 128])
def test_bias_of_the_input_and_its_gradient(expanded):
    """The surroundings stay zeros: the bias is not added there.

    Neither is it in the channels that are added to 64, for which there are no threads.
    """
    x, kernel, bias, cotangent = random_arrays(*shapes((1, 5, 2, 2 * expanded)))
    input_bias = bias[::-1].copy()

    def run(*arrays):
        return value_and_gradients(on_gpu, arrays, cotangent)

    result = run_interpreted(run, x, kernel, bias, input_bias, device=GPU)
    out, (dx, dkernel, dbias, dinput_bias) = result
    arrays = x + input_bias, kernel, bias
    check(arrays, cotangent, (out, (dx, dkernel, dbias)), 2e-6)
    expected = glu_oracle.glu_gradients(*arrays, cotangent)[0].sum((0, 1, 2))
    assert_close(dinput_bias, expected, 2e-6)
