"""ReLU linear attention against the O(N^2) form in float64."""

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
from tests.kernels_pallas.naive_attention import naive

# All different, so that swapped axes cannot go unseen. B, N, H, K.
SIZES = (2, 7, 3, 5)


def inputs(sizes=SIZES, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(sizes).astype(dtype) for _ in range(3))


def close(actual, expected, rtol=2e-5):
    """Relative to the largest value: the sums cancel."""
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("sizes", [SIZES, (3, 1, 2, 4), (1, 65, 2, 32)])
@pytest.mark.parametrize("floor", [0.0, 1e-3, 0.5])
def test_equals_the_naive_form(sizes, floor):
    q, k, v = inputs(sizes)
    actual = linear_attention(q, k, v, floor=floor)
    assert actual.shape == sizes
    assert actual.dtype == jnp.float32
    close(actual, naive(q, k, v, floor=floor))


def test_eps_is_added_to_the_denominator():
    q, k, v = inputs()
    close(linear_attention(q, k, v, eps=0.5), naive(q, k, v, eps=0.5))
    assert np.abs(naive(q, k, v, eps=0.5) - naive(q, k, v)).max() > 0.05


@pytest.mark.parametrize("argument", range(3))
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_gradient_equals_finite_differences(argument, floor):
    """Against the slope of the naive form in float64, in a random direction.

    Small gradients could hide behind large ones, so each token is tried alone.
    """
    arrays = inputs(seed=1)
    rng = np.random.default_rng(2)
    weight = rng.standard_normal(SIZES).astype(np.float32)
    direction = rng.standard_normal(SIZES)

    def loss(x):
        args = [x if i == argument else a for i, a in enumerate(arrays)]
        return jnp.sum(weight * linear_attention(*args, floor=floor))

    def naive_loss(x):
        args = [x if i == argument else a for i, a in enumerate(arrays)]
        return np.sum(weight * naive(*args, floor=floor))

    gradient = np.asarray(jax.grad(loss)(arrays[argument]), np.float64)
    actual, expected = [], []
    for token in range(SIZES[1]):
        step = np.zeros(SIZES)
        step[:, token] = 1e-6 * direction[:, token]
        change = naive_loss(arrays[argument] + step) - naive_loss(
            arrays[argument] - step
        )
        expected.append(change / 2e-6)
        actual.append(np.sum(gradient[:, token] * direction[:, token]))
    close(actual, expected, rtol=1e-4)


def test_bfloat16_inputs_lose_only_the_last_rounding():
    """Features, products and sums are float32: only the result is rounded.

    That costs half a unit in the last place of bfloat16. Values are positive so that
    nothing cancels; rounding the state or the normaliser as well would show.
    """
    q, k, v = (np.abs(x) for x in inputs((1, 4099, 2, 8)))
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    actual = linear_attention(*rounded)
    assert actual.dtype == jnp.bfloat16
    expected = naive(*(np.asarray(x, np.float64) for x in rounded))
    unit = 2.0 ** (np.floor(np.log2(expected)) - 7)
    error = np.abs(np.asarray(actual, np.float64) - expected) / unit
    assert error.max() < 0.51


def test_bfloat16_gradients_come_from_float32_sums():
    arrays = [jnp.abs(jnp.asarray(x, jnp.bfloat16)) for x in inputs((1, 513, 2, 8))]
    full = [x.astype(jnp.float32) for x in arrays]

    def loss(q, k, v):
        return jnp.sum(linear_attention(q, k, v)[:, ::7].astype(jnp.float32) ** 2)

    gradients = jax.grad(loss, argnums=(0, 1, 2))(*arrays)
    expected = jax.grad(loss, argnums=(0, 1, 2))(*full)
    for actual, reference in zip(gradients, expected, strict=True):
        assert actual.dtype == jnp.bfloat16
        # The output, its cotangent and the gradient are rounded, 2^-8 each.
        close(np.asarray(actual, np.float64), reference, rtol=3 * 2**-8)


def dead_inputs():
    """A dead query, and one alive only where every key is dead."""
    q, k, v = (x.copy() for x in inputs())
    q[0, 2] = -1.0
    q[1, 4] = 0.0
    k[1, :, :, 0] = -1.0
    q[1, 5] = [1.0, -1.0, -1.0, -1.0, -1.0]
    return q, k, v, [(0, 2), (1, 4), (1, 5)]


def test_dead_rows_give_exactly_zero():
    q, k, v, dead = dead_inputs()
    out = linear_attention(q, k, 1e6 * v)
    for index in dead:
        np.testing.assert_array_equal(out[index], 0.0)
        assert np.all(np.abs(naive(q, k, v)[index]) == 0)
    alive = np.ones(SIZES[:2], bool)
    for index in dead:
        alive[index] = False
    assert np.all(np.any(np.asarray(out)[alive] != 0, axis=(-1, -2)))


def test_dead_keys_give_exactly_zero():
    q, k, v = inputs()
    np.testing.assert_array_equal(linear_attention(q, -np.abs(k), v), 0.0)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e12])
def test_dead_rows_have_finite_gradients(scale):
    q, k, v, dead = dead_inputs()

    def loss(q, k, v):
        return jnp.sum(linear_attention(q, k, v) ** 2)

    gradients = jax.grad(loss, argnums=(0, 1, 2))(q, k, scale * v)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
    for index in dead:
        np.testing.assert_array_equal(gradients[0][index], 0.0)


def test_floor_revives_dead_rows():
    q, k, v, dead = dead_inputs()
    out = linear_attention(q, k, v, floor=1e-3)
    close(out, naive(q, k, v, floor=1e-3))
    for index in dead:
        assert np.all(np.abs(out[index]) > 0)


def test_a_large_floor_averages_the_values():
    q, k, v = inputs()
    out = linear_attention(q, k, v, floor=1e4)
    close(out, np.broadcast_to(v.mean(axis=1, keepdims=True), v.shape), rtol=1e-2)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e6, 1e12])
def test_magnitude_of_q_and_k_cancels(scale):
    q, k, v = inputs()
    q, k, v = (np.abs(x) + 0.1 for x in (q, k, v))
    out = linear_attention(np.float32(scale) * q, np.float32(scale) * k, v)
    close(out, naive(scale * q.astype(np.float64), scale * k.astype(np.float64), v))


def test_vanishing_magnitudes_end_in_eps():
    """Products of 1e-18 are below eps: the output falls, and stays finite."""
    q, k, v = (np.abs(x) + 0.1 for x in inputs())
    q, k = np.float32(1e-9) * q, np.float32(1e-9) * k
    out = linear_attention(q, k, v)
    close(out, naive(q, k, v), rtol=1e-4)
    assert np.all(np.asarray(out) < 0.1)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_output_is_linear_in_v(scale):
    q, k, v = inputs()
    out = linear_attention(q, k, np.float32(scale) * v)
    close(np.asarray(out, np.float64) / scale, naive(q, k, v), rtol=1e-4)


def test_a_constant_value_is_returned():
    """The weights of a live row sum to one."""
    q, k, v = (np.abs(x) + 0.1 for x in inputs())
    out = linear_attention(q, k, np.full_like(v, 3.0))
    np.testing.assert_allclose(out, 3.0, rtol=1e-6)


def test_order_of_tokens():
    q, k, v = inputs()
    order = np.random.default_rng(3).permutation(SIZES[1])
    out = np.asarray(linear_attention(q, k, v))
    close(linear_attention(q[:, order], k[:, order], v[:, order]), out[:, order])
    close(linear_attention(q, k[:, order], v[:, order]), out)


def test_heads_and_samples_are_separate():
    q, k, v = inputs()
    out = np.asarray(linear_attention(q, k, v))
    for array in (q, k, v):
        array[0, :, 1] += 1.0
    changed = np.asarray(linear_attention(q, k, v)) != out
    expected = np.zeros((SIZES[0], 1, SIZES[2], 1), bool)
    expected[0, 0, 1] = True
    np.testing.assert_array_equal(changed, np.broadcast_to(expected, SIZES))


def test_states_of_parts_add_up():
    """The state is a sum over tokens: what bands and sharding rest on."""
    q, k, v = inputs()
    state, normalizer = 0.0, 0.0
    for part in (slice(0, 3), slice(3, None)):
        key = np.maximum(k[:, part], 0).astype(np.float64)
        state = state + np.einsum("bnhk,bnhl->bhkl", key, v[:, part])
        normalizer = normalizer + key.sum(axis=1)
    query = np.maximum(q, 0).astype(np.float64)
    numerator = np.einsum("bnhk,bhkl->bnhl", query, state)
    denominator = np.einsum("bnhk,bhk->bnh", query, normalizer)
    expected = numerator / (denominator[..., None] + 1e-15)
    close(linear_attention(q, k, v), expected)


def test_jit_and_vmap_over_experts():
    q, k, v = inputs((4, *SIZES))
    out = jax.jit(jax.vmap(linear_attention))(q, k, v)
    for i in range(4):
        close(out[i], naive(q[i], k[i], v[i]))


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 7, 3, 5), (2, 7, 3, 5), (2, 8, 3, 5)],  # k and v of other lengths
        [(2, 7, 3, 4), (2, 7, 3, 5), (2, 7, 3, 5)],  # other head sizes
        [(1, 7, 3, 5), (2, 7, 3, 5), (2, 7, 3, 5)],  # would broadcast
        [(7, 3, 5)] * 3,
    ],
)
def test_shapes_that_do_not_go_together_are_refused(shapes):
    with pytest.raises(ValueError, match="linear_attention"):
        linear_attention(*(np.zeros(shape, np.float32) for shape in shapes))


@pytest.mark.parametrize("argument", range(3))
def test_integers_are_refused(argument):
    arrays = list(inputs())
    arrays[argument] = arrays[argument].astype(np.int32)
    with pytest.raises(ValueError, match="floating point, got int32"):
        linear_attention(*arrays)


def test_queries_may_be_fewer_than_keys():
    q, k, v = inputs()
    close(linear_attention(q[:, :2], k, v), naive(q, k, v)[:, :2])


def test_halves_and_whole():
    q, k, v = inputs()
    state = linear_attention_state(k, v, floor=0.1)
    assert state.shape == (2, 3, 5, 6)
    assert state.dtype == jnp.float32
    key = np.maximum(k.astype(np.float64), 0) + 0.1
    close(state[..., :5], np.einsum("bnhk,bnhl->bhkl", key, v))
    close(state[..., 5], key.sum(axis=1))
    out = linear_attention_output(q, state, floor=0.1, eps=0.5)
    close(out, naive(q, k, v, floor=0.1, eps=0.5))
    with pytest.raises(ValueError, match=r"got .* and a state"):
        linear_attention_output(q, state[..., :5])


def test_columns_of_one_array():
    q, k, v = inputs()
    qkv = np.concatenate([x.reshape(*SIZES[:2], -1) for x in (q, k, v)], axis=-1)
    close(linear_attention_qkv(qkv, SIZES[2], floor=1e-3), naive(q, k, v, floor=1e-3))
    for heads in (2, 30):  # 45 channels are neither 3 x 2 nor 3 x 30 heads.
        with pytest.raises(ValueError, match=f"H = {heads}"):
            linear_attention_qkv(qkv, heads)
