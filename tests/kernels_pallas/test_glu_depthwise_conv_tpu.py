"""The TPU kernel without a TPU: interpreted, lowered and (slow) compiled."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import glu_depthwise_conv
from kernels_pallas.glu_depthwise_conv import tpu
from kernels_pallas.glu_depthwise_conv.vjp import with_gradient
from kernels_pallas.testing import (
    TPU,
    assert_close,
    compile_for_tpu,
    lower,
    on,
    random_arrays,
    run_interpreted,
    value_and_gradients,
)
from kernels_pallas.tuning import GluOnTpu, trying, tuned
from tests.kernels_pallas import glu_oracle

on_tpu = functools.partial(glu_depthwise_conv, implementation="tpu")

# B, H, W, 2E. With two rows a block the first has three blocks of rows and two of
# channels, neither the last of which is full; the second has E on a block's border.
SIZES = [
    (2, 5, 3, 2 * 130),
    (1, 3, 2, 2 * 256),
    (3, 1, 4, 2 * 5),
    (2, 4, 1, 2 * 7),
    (1, 1, 1, 2),
]


REAL_BLOCKS = tuned(GluOnTpu)


@pytest.fixture(autouse=True)
def small_blocks():
    with trying(dataclasses.replace(REAL_BLOCKS, rows=2)):
        yield


def inputs(sizes=(2, 3, 4, 6), seed=0, dtype=np.float32):
    """x, kernel, bias and a cotangent of the output."""
    channels = sizes[-1]
    shapes = sizes, (3, 3, channels), (channels,), (*sizes[:-1], channels // 2)
    return random_arrays(*shapes, seed=seed, dtype=dtype)


def run(*arrays_and_cotangent):
    *arrays, cotangent = arrays_and_cotangent
    return value_and_gradients(on_tpu, arrays, cotangent)


def check(arrays, cotangent, result, tolerance):
    out, gradients = result
    assert out.dtype == arrays[0].dtype
    assert_close(out, glu_oracle.glu(*arrays), tolerance)
    expected = glu_oracle.glu_gradients(*arrays, cotangent)
    for array, actual, gradient in zip(arrays, gradients, expected, strict=True):
        assert actual.dtype == array.dtype
        assert_close(actual, gradient, tolerance)


@pytest.mark.parametrize("sizes", SIZES)
def test_equals_the_loops(sizes):
    *arrays, cotangent = inputs(sizes)
    check(arrays, cotangent, run_interpreted(run, *arrays, cotangent), 2e-6)


def test_bfloat16_is_rounded_once():
    *arrays, cotangent = inputs((2, 3, 5, 2 * 9), dtype=jnp.bfloat16)
    result = run_interpreted(run, *arrays, cotangent)
    # The inputs are exact. Half a unit of bfloat16's last place is up to 2^-8.
    check(arrays, cotangent, result, 1.01 * 2**-8)


def test_magnitudes_and_zero_rows():
    """Each channel of x at a scale of its own, compared on its own."""
    x, kernel, bias, cotangent = inputs((2, 4, 3, 12))
    scales = np.float32([1e-30, 1e-15, 1e-5, 1e2, 1e4, 1e7])
    x *= np.tile(scales, 2)
    x[:, 1:3, :, :3] = 0
    out, (grad_x, grad_kernel, grad_bias) = run_interpreted(
        run, x, kernel, bias, cotangent
    )
    exact = glu_oracle.glu_gradients(x, kernel, bias, cotangent)
    assert np.isfinite(out).all()
    for channel in range(12):
        at = (..., channel)
        if channel < 6:
            assert_close(out[at], glu_oracle.glu(x, kernel, bias)[at], 4e-6)
        for actual, gradient in zip(
            (grad_x, grad_kernel, grad_bias), exact, strict=True
        ):
            assert_close(actual[at], gradient[at], 4e-6)


def test_twice_gives_the_same_bits():
    arrays = inputs((2, 3, 4, 2 * 3))
    first, second = (run_interpreted(run, *arrays) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture
def simple_interpreter(monkeypatch):
    """Pallas's older interpreter: no races, no memory, but devices and vmap."""
    interpreted = functools.partial(tpu.pl.pallas_call, interpret=True)
    monkeypatch.setattr(tpu.pl, "pallas_call", interpreted)
    # Not through the API, for which the device is a CPU here.
    return with_gradient(tpu.forward, tpu.backward)


def test_sharded_over_batch_equals_unsharded(simple_interpreter):
    *arrays, cotangent = inputs((8, 3, 2, 6))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    data, replicated = jax.P("data"), jax.P()
    operation = jax.shard_map(
        simple_interpreter,
        mesh=mesh,
        in_specs=(data, replicated, replicated),
        out_specs=data,
        check_vma=False,
    )

    def run(operation, *arrays):
        return value_and_gradients(operation, arrays[:3], arrays[3])

    sharded, whole = (
        jax.jit(functools.partial(run, f))(*arrays, cotangent)
        for f in (operation, simple_interpreter)
    )
    assert sharded[0].sharding.spec[0] == "data"
    check(arrays, cotangent, sharded, 2e-6)
    # The images do not meet; only the weights' gradients are sums over them.
    np.testing.assert_array_equal(sharded[0], whole[0])
    np.testing.assert_array_equal(sharded[1][0], whole[1][0])


def test_vmap_over_experts(simple_interpreter):
    stacks = [inputs((2, 3, 4, 6), seed=i) for i in range(3)]

    def run(*arrays):
        return value_and_gradients(simple_interpreter, arrays[:3], arrays[3])

    stacked = [np.stack(arrays) for arrays in zip(*stacks, strict=True)]
    results = jax.jit(jax.vmap(run))(*stacked)
    for i, stack in enumerate(stacks):
        check(stack[:3], stack[3], jax.tree.map(lambda a, i=i: a[i], results), 2e-6)


@pytest.mark.parametrize("width", [1, 32, 100, 256, 320])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_fit_into_vmem(width, dtype):
    for most, halo in itertools.product((5, 16), (1, 2)):
        with trying(dataclasses.replace(REAL_BLOCKS, rows=most)):
            rows = tpu.choose_rows(width, width, dtype, halo)
        assert rows <= most
        assert rows >= halo
        assert rows % halo == 0
        used = tpu.vmem_bytes(rows, width, dtype, halo)
        assert used <= REAL_BLOCKS.vmem_bytes


@pytest.mark.parametrize(
    ("sizes", "dtype", "reason"),
    [
        ((1, 2, 400, 6), jnp.float32, "400 columns"),
        ((1, 2, 3, 6), jnp.float16, "float16"),
        ((0, 2, 3, 6), jnp.float32, "no elements"),
    ],
)
def test_what_it_does_not_take(sizes, dtype, reason):
    *arrays, _ = inputs(sizes, dtype=dtype)
    with on(TPU), pytest.raises(NotImplementedError, match=reason) as error:
        jax.eval_shape(on_tpu, *arrays)
    assert "TPU v5 lite" in str(error.value)
    assert "\n" not in str(error.value)


def shapes_of(sizes, dtype=jnp.bfloat16):
    channels = sizes[-1]
    shapes = sizes, (3, 3, channels), (channels,), (*sizes[:-1], channels // 2)
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


@pytest.mark.parametrize("expanded", [2880, 5600])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lowers_at_the_presets_shapes(expanded, dtype):
    with trying(REAL_BLOCKS):
        text = lower(run, TPU, *shapes_of((2, 32, 32, 2 * expanded), dtype))
    assert text.count("tpu_custom_call") == 2  # Forward, and the gradient.


def test_lowers_over_experts():
    shapes = shapes_of((2, 32, 32, 2 * 160))
    stacked = [jax.ShapeDtypeStruct((4, *s.shape), s.dtype) for s in shapes]
    assert lower(jax.vmap(run), TPU, *stacked).count("tpu_custom_call") == 2


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_compiles_for_real_tpus(topology):
    """With Mosaic, registers and VMEM; needs libtpu, but no TPU."""
    pytest.importorskip("libtpu")
    for expanded, dtype in itertools.product((2880, 5600), (jnp.bfloat16, jnp.float32)):
        for side in (32, 64, 128, 256):
            sizes = (1, side, side, 2 * expanded)
            with trying(REAL_BLOCKS):
                compiled = compile_for_tpu(topology, run, *shapes_of(sizes, dtype))
            assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2
