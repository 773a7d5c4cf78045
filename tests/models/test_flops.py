"""The count of operations against SANA's published ones, and XLA's."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.presets import get_preset
from linearsr_jax.plan.flop_count import flops_of

# GFLOP at 512, 1024, 2048 and 4096 pixels a side with 300 tokens (specs/SANA.md 4).
SANA = {
    "600m": (315.6, 1121.5, 4345.0, 17238.8),
    "1600m": (836.6, 2966.7, 11486.8, 45567.6),
}


@pytest.mark.parametrize("name", SANA)
def test_equals_sanas(name):
    model = get_preset(name).make_model()
    for side, expected in zip((16, 32, 64, 128), SANA[name], strict=True):
        parts = dict(forward_flops(model, (side, side), 300))
        # SANA has no LR image: its patch embedding takes the latents alone.
        parts["embed"] = 2 * side**2 * 32 * model.width
        assert sum(parts.values()) / 1e9 == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("factor", [4, 16])
def test_equals_what_xla_counts(factor):
    """Which also counts elementwise operations, a few for each element."""
    preset = dataclasses.replace(
        get_preset("debug"), codec_factor=factor, width=128, heads=4, cross_heads=4
    )
    model = preset.make_model(scan_unroll=preset.depth)
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    side = factor // 4
    inputs = (
        jnp.zeros((1, 8, 12, 48)),
        jnp.ones(1),
        jnp.zeros((1, 8 * side, 12 * side, 3)),
        Condition(jnp.zeros((1, 20), jnp.int32), jnp.ones((1, 20), bool)),
    )
    lowered = jax.jit(lambda p, *x: model.apply({"params": p}, *x)).lower(
        shapes, *inputs
    )
    counted = lowered.cost_analysis()["flops"]
    parts = forward_flops(model, (8, 12), 20)
    assert min(parts.values()) > 0
    assert sum(parts.values()) == pytest.approx(counted, rel=0.06)
    assert sum(parts.values()) < counted


def test_equals_what_nanos_program_multiplies():
    """Its stem has residual blocks; denominators of the attention are sums there."""
    model = get_preset("nano").make_model()
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    inputs = (
        jnp.zeros((1, 8, 12, 48)),
        jnp.ones(1),
        jnp.zeros((1, 8, 12, 3)),
        Condition(jnp.zeros((1, 20), jnp.int32), jnp.ones((1, 20), bool)),
    )
    counted = flops_of(lambda p, *x: model.apply({"params": p}, *x), shapes, *inputs)
    parts = forward_flops(model, (8, 12), 20)
    assert sum(parts.values()) == pytest.approx(counted, rel=1e-3)
