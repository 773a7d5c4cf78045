"""Linear attention over eight simulated devices equals that on one."""

import functools

import jax
from jax.sharding import AxisType

from kernels_pallas import (
    linear_attention,
    linear_attention_output,
    linear_attention_state,
)
from kernels_pallas.linear_attention import tpu, vjp
from kernels_pallas.testing import (
    TPU,
    assert_close,
    interpreting,
    random_arrays,
    value_and_gradients,
)
from kernels_pallas.tuning import AttentionOnTpu, trying

SIZES = (2, 24, 4, 32)  # B, N, H, K


def mesh_of(**axes):
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=types)


def sharded(function, mesh, spec):
    """The function of (B, N, H, K) arrays, run on shards of them."""
    return jax.shard_map(
        function, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )


def over_tokens(q, k, v):
    """On a shard of the tokens: one sum of the states over the devices, no more."""
    state = jax.lax.psum(linear_attention_state(k, v), "tokens")
    return linear_attention_output(q, state)


def assert_equals_one_device(function):
    *arrays, grad = random_arrays(*[SIZES] * 4)
    run = functools.partial(value_and_gradients, function)
    actual = jax.tree.leaves(jax.jit(run)(arrays, grad))
    expected = jax.tree.leaves(value_and_gradients(linear_attention, arrays, grad))
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, 1e-5)


def test_over_batch_and_heads():
    spec = jax.P("batch", None, "heads")
    mesh = mesh_of(batch=2, heads=4)
    assert_equals_one_device(sharded(linear_attention, mesh, spec))


def test_over_tokens():
    mesh = mesh_of(tokens=8)
    assert_equals_one_device(sharded(over_tokens, mesh, jax.P(None, "tokens")))


def test_over_tokens_and_heads():
    mesh = mesh_of(tokens=4, heads=2)
    assert_equals_one_device(sharded(over_tokens, mesh, jax.P(None, "tokens", "heads")))


def test_tpu_kernels_over_tokens_and_heads():
    def shard(q, k, v):
        state = vjp.linear_attention_state(tpu, k, v, 0.0)
        return vjp.linear_attention_output(
            tpu, q, jax.lax.psum(state, "tokens"), 1e-15, 0.0
        )

    spec = jax.P(None, "tokens", "heads")
    function = sharded(shard, mesh_of(tokens=2, heads=2), spec)
    *arrays, grad = random_arrays(*[SIZES] * 4)

    run = jax.jit(functools.partial(value_and_gradients, function))
    with interpreting(TPU), trying(AttentionOnTpu(tokens=8)):
        actual = jax.block_until_ready(run(arrays, grad))
    expected = value_and_gradients(linear_attention, arrays, grad)
    for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert_close(one, other, 1e-5)
