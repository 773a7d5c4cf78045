"""What linear attention reports of itself, against float64 sums over its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.models.linear_attention import TELEMETRY, LinearSelfAttention

WIDTH, HEADS, TOKENS = 6, 2, 5


def make(floor=0.0):
    model = LinearSelfAttention(
        width=WIDTH,
        heads=HEADS,
        qk_norm=False,
        floor=floor,
        dtype=jnp.float32,
        implementation=None,
    )
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((3, TOKENS, WIDTH)).astype(np.float32)
    kernel = rng.standard_normal((WIDTH, 3 * WIDTH)).astype(np.float32)
    # A sample of zeros has only dead rows; and it must not hide the others.
    tokens[1] = 0.0
    params = {
        "qkv": {"kernel": kernel},
        "out": {"kernel": np.eye(WIDTH, dtype="f4"), "bias": np.zeros(WIDTH, "f4")},
    }
    return model, params, tokens


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_equals_the_sums(floor):
    model, params, tokens = make(floor)
    _, sown = model.apply({"params": params}, tokens, mutable=TELEMETRY)
    q, k, v = np.split(tokens.astype("f8") @ params["qkv"]["kernel"], 3, axis=-1)
    q, k, v = (x.reshape(3, TOKENS, HEADS, -1) for x in (q, k, v))
    q, k = np.maximum(q, 0) + floor, np.maximum(k, 0) + floor
    denominator = np.einsum("bnhk,bmhk->bnh", q, k)
    dead = denominator == 0
    assert dead.any() == (floor == 0.0)
    state = np.einsum("bnhk,bnhl->bhkl", k, v)
    sown = sown[TELEMETRY]
    assert sown.keys() == {"min_denominator", "dead_rows", "max_state"}
    expected = (denominator[~dead].min(), dead.mean(), np.abs(state).max())
    actual = (sown["min_denominator"], sown["dead_rows"], sown["max_state"])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_is_not_computed_unless_asked_for():
    model, params, tokens = make()
    plain = jax.make_jaxpr(lambda x: model.apply({"params": params}, x))(tokens)
    asked = jax.make_jaxpr(
        lambda x: model.apply({"params": params}, x, mutable=TELEMETRY)
    )(tokens)
    assert "reduce_min" not in str(plain)
    assert "reduce_min" in str(asked)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    assert variables.keys() == {"params"}
