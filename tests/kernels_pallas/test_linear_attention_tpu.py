"""The TPU kernels: interpreted on CPU against float64, and lowered for a TPU.

The interpreter reports data races and starts memory as NaN. Sizes are all different,
and no multiples of the tiles: 23 tokens in tiles of 16, 5 heads of 32 in tiles of 4.
"""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import (
    linear_attention,
    linear_attention_output,
    linear_attention_qkv,
    linear_attention_state,
)
from kernels_pallas.linear_attention import tpu, vjp
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
from kernels_pallas.tuning import AttentionOnTpu, trying, tuned
from tests.kernels_pallas.naive_attention import naive, naive_gradients

SIZES = (2, 23, 5, 32)  # B, N, H, K
HIGHEST = jax.lax.Precision.HIGHEST
REAL_TILES = tuned(AttentionOnTpu)
attention = functools.partial(linear_attention, implementation="tpu")


@pytest.fixture(autouse=True)
def _small_tiles():
    with trying(AttentionOnTpu(tokens=16)):
        yield


@pytest.fixture
def _real_tiles():
    with trying(REAL_TILES):
        yield


def forward_and_gradients(q, k, v, grad, **settings):
    def run(q, k, v, grad):
        function = functools.partial(attention, **settings)
        return value_and_gradients(function, (q, k, v), grad)

    out, gradients = run_interpreted(run, q, k, v, grad)
    return out, *gradients


def naive_forward_and_gradients(q, k, v, grad, **settings):
    out = naive(q, k, v, **settings)
    return out, *naive_gradients(q, k, v, grad, **settings)


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        (SIZES, {}),
        # One tile, narrower than 128 lanes; a denominator that no eps holds up.
        ((1, 7, 3, 8), {"floor": 0.1, "eps": 0.0}),
        ((3, 1, 2, 64), {"eps": 0.5}),
        ((1, 33, 2, 128), {"floor": 1e-3}),
    ],
)
def test_equals_the_naive_form(sizes, settings):
    assert_equals_naive(sizes, **settings)


@pytest.mark.usefixtures("_real_tiles")
def test_equals_the_naive_form_in_real_tiles():
    assert_equals_naive((1, REAL_TILES.tokens + 18, 1, 32))


def assert_equals_naive(sizes, **settings):
    arrays = random_arrays(*[sizes] * 4)
    actual = forward_and_gradients(*arrays, **settings)
    expected = naive_forward_and_gradients(*arrays, **settings)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == jnp.float32
        assert_close(one, other, 5e-6)


def test_whole_tiles_are_not_masked():
    """Two tiles of tokens and one of lanes, full; the others here reach beyond."""
    sizes = (1, 2 * tuned(AttentionOnTpu).tokens, 4, 32)
    assert tpu._Tiling(*sizes).inside() is None
    assert_equals_naive(sizes)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_bfloat16_is_rounded_at_the_end_only(floor):
    """Half a unit in the last place, 2^-8 of a value, for each of the four results."""
    arrays = random_arrays(*[SIZES] * 4, dtype=jnp.bfloat16)
    actual = forward_and_gradients(*arrays, floor=floor)
    expected = naive_forward_and_gradients(*arrays, floor=floor)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        error = np.abs(np.asarray(one, np.float64) - other)
        # Where the sum cancels, the error of two pieces, 2^-17 of a factor, is left.
        assert np.all(
            error <= 1.01 * 2**-8 * np.abs(other) + 2**-17 * np.abs(other).max()
        )


def test_types_may_differ():
    """Each gradient has its input's type; the coarsest one decides the error."""
    arrays = random_arrays(*[SIZES] * 4)
    arrays[1] = arrays[1].astype(jnp.bfloat16)  # The keys.
    actual = forward_and_gradients(*arrays)
    expected = naive_forward_and_gradients(*arrays)
    dtypes = [x.dtype for x in (arrays[0], *arrays[:3])]
    for one, other, dtype in zip(actual, expected, dtypes, strict=True):
        assert one.dtype == dtype
        assert_close(one, other, 5e-6 if dtype == jnp.float32 else 2**-8)


def test_dead_rows_give_exactly_zero_and_finite_gradients():
    q, k, v, grad = random_arrays(*[SIZES] * 4)
    q[0, 2] = -1.0
    q[1, 22] = 0.0
    k[1, :, 4] = -1.0  # A head without a living key.
    # So large that the gradient before the relu's slope is infinite there.
    v, grad = np.float32(1e12) * v, np.float32(1e12) * grad
    out, dq, dk, dv = forward_and_gradients(q, k, v, grad)
    for dead in ((0, 2), (1, 22), (1, slice(None), 4)):
        np.testing.assert_array_equal(out[dead], 0.0)
        np.testing.assert_array_equal(dq[dead], 0.0)
    for gradient in (dq, dk, dv):
        assert np.all(np.isfinite(gradient))


def test_magnitudes_of_q_and_k():
    """One scale a sample. 1e-20 squared is below float32: nothing is left of it."""
    scales = [1e-20, 1e-6, 1e6, 1e15]
    arrays = [np.abs(x) + np.float32(0.1) for x in random_arrays(*[(4, 23, 2, 32)] * 4)]
    for x in arrays[:2]:
        x *= np.array(scales, np.float32)[:, None, None, None]
    actual = forward_and_gradients(*arrays)
    expected = naive_forward_and_gradients(*arrays)
    for name, one, other in zip(("out", "q", "k", "v"), actual, expected, strict=True):
        for i, scale in enumerate(scales):
            if name == "out" and scale == 1e-20:
                assert np.all(np.abs(one[i]) < 1e-23)
            else:
                assert_close(one[i], other[i], 3e-5)


def test_runs_are_bitwise_equal():
    arrays = random_arrays(*[(1, 23, 3, 64)] * 4)
    first, second = (forward_and_gradients(*arrays) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_states_of_parts_add_up():
    q, k, v = random_arrays(*[SIZES] * 3)

    def in_two_bands(q, k, v):
        bands = (slice(0, 3), slice(3, None))
        state = sum(
            linear_attention_state(k[:, band], v[:, band], implementation="tpu")
            for band in bands
        )
        outputs = [
            linear_attention_output(q[:, band], state, implementation="tpu")
            for band in bands
        ]
        return jnp.concatenate(outputs, axis=1)

    assert_close(run_interpreted(in_two_bands, q, k, v), naive(q, k, v), 2e-6)


def test_vmap_over_experts(monkeypatch):
    """In Pallas's older interpreter: that of the other tests does not know vmap."""
    interpreted = functools.partial(tpu.pl.pallas_call, interpret=True)
    monkeypatch.setattr(tpu.pl, "pallas_call", interpreted)
    stacks = random_arrays(*[(3, 2, 23, 1, 8)] * 4)

    def run(q, k, v, grad):
        function = functools.partial(vjp.linear_attention, tpu, eps=1e-15, floor=0.1)
        out, gradients = value_and_gradients(function, (q, k, v), grad)
        return out, *gradients

    results = jax.jit(jax.vmap(run))(*stacks)
    for i in range(3):
        arrays = [stack[i] for stack in stacks]
        expected = naive_forward_and_gradients(*arrays, floor=0.1)
        for one, other in zip(results, expected, strict=True):
            assert_close(one[i], other, 5e-6)


@pytest.mark.parametrize(
    ("dtype", "sizes", "reason"),
    [
        (np.float16, (1, 4, 2, 32), "float16[1, 4, 2, 32]"),
        (np.float32, (1, 4, 2, 24), "K must divide 128"),
        (np.float32, (1, 0, 2, 32), "empty"),
    ],
)
def test_what_is_not_taken_is_named(dtype, sizes, reason):
    arrays = random_arrays(*[sizes] * 3, dtype=dtype)
    with pytest.raises(NotImplementedError) as error:
        run_interpreted(attention, *arrays)
    assert reason in str(error.value)
    assert "'TPU v5 lite'" in str(error.value)


# (heads, tokens) of the presets 600m, 1600m and nano, and a count with a last tile.
REAL = [(36, 1024), (70, 4096), (2, 16384), (70, 1100)]


TPU_KERNEL = 'custom_call_target="tpu_custom_call"'


def both_ways(q, k, v, grad):
    return value_and_gradients(attention, (q, k, v), grad)


@pytest.mark.usefixtures("_real_tiles")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("heads", "tokens"), REAL)
def test_lowers_at_real_shapes(heads, tokens, dtype):
    array = jax.ShapeDtypeStruct((2, tokens, heads, 32), dtype)
    text = lower(both_ways, TPU, *[array] * 4)
    # State and output; the gradients of both.
    assert text.count("@tpu_custom_call") == 4


@pytest.mark.usefixtures("_real_tiles")
def test_lowers_over_experts():
    array = jax.ShapeDtypeStruct((4, 2, 1024, 36, 32), jnp.bfloat16)
    text = lower(jax.vmap(both_ways), TPU, *[array] * 4)
    assert text.count("@tpu_custom_call") == 4


def test_no_product_is_rounded_to_bfloat16():
    """What no CPU shows: float32 factors are HIGHEST, or a TPU would round them first.

    For bfloat16 tokens all factors are pieces that have been rounded already.
    """
    for dtype, count in ((jnp.float32, 7), (jnp.bfloat16, 14)):
        arrays = [jnp.ones((1, 40, 2, 32), dtype)] * 4
        with on(TPU):
            traced = jax.make_jaxpr(both_ways)(*arrays)
        products = list(equations("dot_general", traced.jaxpr))
        assert len(products) == count
        for product in products:
            if dtype == jnp.float32:
                assert product.params["precision"] == (HIGHEST, HIGHEST)
            else:
                assert all(x.aval.dtype == jnp.bfloat16 for x in product.invars)
                assert product.params["preferred_element_type"] == jnp.float32


def equations(name, jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(name, inner)


@pytest.mark.usefixtures("_real_tiles")
def test_columns_of_one_array_are_read_where_they_lie():
    """Four heads of 32 fill a tile, so that nothing is cut out; three do not."""
    for heads, channels in ((4, 3 * 128), (3, 96)):
        qkv = random_arrays((1, 40, 3 * 32 * heads))[0]
        attend = functools.partial(
            linear_attention_qkv, heads=heads, implementation="tpu"
        )
        with on(TPU):
            traced = jax.make_jaxpr(attend)(qkv)
        state, output = equations("pallas_call", traced.jaxpr)
        for token_input in (*state.invars, output.invars[0]):
            assert token_input.aval.shape == (1, 40, channels)
        q, k, v = (x.reshape(1, 40, heads, 32) for x in np.split(qkv, 3, axis=-1))
        assert_close(run_interpreted(attend, qkv), naive(q, k, v), 2e-6)


@pytest.mark.usefixtures("_real_tiles")
@pytest.mark.slow
def test_tokens_lie_as_the_products_around_make_them():
    """A layer of 600m, both ways: no tokens are copied, cut apart or turned round."""
    pytest.importorskip("libtpu")
    tokens, heads, width = 1024, 36, 36 * 32
    attend = functools.partial(linear_attention_qkv, heads=heads, implementation="tpu")

    def layer(x, weights, weights_out, cotangent):
        def forward(x, weights, weights_out):
            return attend(x @ weights).reshape(x.shape) @ weights_out

        return value_and_gradients(forward, (x, weights, weights_out), cotangent)

    x, weights, weights_out = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        for shape in ((1, tokens, width), (width, 3 * width), (width, width))
    )
    text = compile_for_tpu("v5e:2x2", layer, x, weights, weights_out, x).as_text()
    assert text.count(TPU_KERNEL) == 4
    # What moves data by itself and yields an array of tokens.
    moves = rf"bf16\[1,{tokens},[^=]* (copy|transpose|concatenate|slice)\("
    assert not re.findall(moves, text[text.index("ENTRY") :])


@pytest.mark.usefixtures("_real_tiles")
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_compiles_for_real_tpus(topology):
    """With Mosaic, registers and VMEM; needs libtpu, but no TPU."""
    pytest.importorskip("libtpu")
    for heads, dtype in itertools.product((36, 70), (jnp.float32, jnp.bfloat16)):
        for tokens in (1024, 4096, 16384, 65536):
            array = jax.ShapeDtypeStruct((1, tokens, heads, 32), dtype)
            compiled = compile_for_tpu(topology, both_ways, *[array] * 4)
            assert compiled.as_text().count(TPU_KERNEL) == 4
