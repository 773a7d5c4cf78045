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
    random_arrays,
    run_interpreted,
)
from tests.kernels_pallas import glu_oracle
from tests.kernels_pallas.test_glu_depthwise_conv_gpu import run, shapes

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


# B, H, W, 2E. One band and a part, two blocks of channels that overlap; rows for two
# gradient programs and images a column wide; a single pixel.
@pytest.mark.parametrize(
    "sizes", [(2, 5, 3, 2 * 264), (1, 9, 1, 2 * 256), (1, 1, 1, 2 * 256)]
)
def test_equals_the_loops(sizes):
    *arrays, cotangent = random_arrays(*shapes(sizes))
    check(arrays, cotangent, run_interpreted(run, *arrays, cotangent, device=GPU), 2e-6)


def test_bfloat16_is_rounded_once_and_twice_gives_the_same_bits():
    arrays = random_arrays(*shapes((1, 3, 2, 2 * 264)), dtype=jnp.bfloat16)
    result = run_interpreted(run, *arrays, device=GPU)
    # The inputs are exact. Half a unit of bfloat16's last place is up to 2^-8.
    check(arrays[:3], arrays[3], result, 1.01 * 2**-8)
    jax.tree.map(
        np.testing.assert_array_equal, result, run_interpreted(run, *arrays, device=GPU)
    )
