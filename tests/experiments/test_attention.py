"""The networks of experiments/202611_attention compute what their names say."""

import functools
import importlib.util
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.models.linear_attention import TELEMETRY, LinearSelfAttention
from linearsr_jax.models.presets import PRESETS, get_preset

PATH = Path(__file__).resolve().parents[2] / "experiments/202611_attention/variants.py"
GRID = 28
STEM_RADIUS = 3


@pytest.fixture(scope="module")
def variants():
    before = dict(PRESETS)
    spec = importlib.util.spec_from_file_location("attention_variants", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    PRESETS.clear()
    PRESETS.update(before)


def make_layer(width=12, heads=3):
    return LinearSelfAttention(
        width,
        heads,
        qk_norm=False,
        floor=0.0,
        dtype=jnp.float32,
        implementation="reference",
    )


def make_network(variants, variant):
    """(network, parameters with a head that is not zero); inside the context."""
    network = get_preset(variants.preset_name(variant)).make_model()
    params = jax.jit(network.init_params)(jax.random.key(0))
    kernel = params["head"]["kernel"]
    params["head"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    return network, params


def test_softmax_is_that_of_numpy(variants, monkeypatch):
    """Also in parts, the last of which is not full."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, 10, 12))
    layer = make_layer()
    with variants.attending("softmax"):
        params = layer.init(jax.random.key(0), tokens)
        outputs = []
        for at_once, queries in ((variants.AT_ONCE, 4), (9, 4)):
            monkeypatch.setattr(variants, "AT_ONCE", at_once)
            monkeypatch.setattr(variants, "QUERIES", queries)
            outputs.append(layer.apply(params, tokens.astype(np.float32)))
    weights = jax.tree.map(np.float64, nn.meta.unbox(params["params"]))
    query, key, value = np.split(tokens @ weights["qkv"]["kernel"], 3, axis=-1)
    mixed = np.empty_like(tokens)
    for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
        logits = query[..., head] @ key[..., head].swapaxes(1, 2) / 2
        weight = np.exp(logits)
        weight /= weight.sum(axis=-1, keepdims=True)
        mixed[..., head] = weight @ value[..., head]
    expected = mixed @ weights["out"]["kernel"] + weights["out"]["bias"]
    for output in outputs:
        np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6)


def test_parameters_are_linear_attentions_or_absent(variants):
    tokens = jnp.zeros((1, 4, 12))
    trees = {}
    for variant in variants.DEPTHS:
        with variants.attending(variant):
            trees[variant] = make_layer().init(jax.random.key(0), tokens)
    linear, softmax = (trees[name]["params"] for name in ("linear", "softmax"))
    jax.tree.map(np.testing.assert_array_equal, linear, softmax)
    assert trees["none"].get("params", {}) == {}


def changes_at_centre(variants, variant, radii):
    """Largest change at the centre when all beyond a radius is another image."""
    rng = np.random.default_rng(0)
    own, other = rng.uniform(-1, 1, (2, GRID, GRID, 3)).astype(np.float32)
    rows, columns = np.indices((GRID, GRID)) - GRID // 2
    distance = np.maximum(abs(rows), abs(columns))[..., None]
    images = [own, *(np.where(distance > radius, other, own) for radius in radii)]
    count = len(images)
    with variants.attending(variant):
        network, params = make_network(variants, variant)
        latents = jnp.zeros((count, GRID, GRID, network.latent_channels))
        apply = jax.jit(network.apply)
        outputs = apply({"params": params}, latents, jnp.ones(count), np.stack(images))
    centre, *changed = np.asarray(outputs[:, GRID // 2, GRID // 2])
    assert np.max(np.abs(centre)) > 0.1
    return [np.max(np.abs(x - centre)) for x in changed]


def test_without_attention_nothing_comes_from_beyond_the_convolutions(variants):
    radius = STEM_RADIUS + variants.DEPTHS["none"]
    # A radius that is too large would pass the second.
    inside, outside = changes_at_centre(variants, "none", [radius - 1, radius])
    assert inside > 0.0
    assert outside == 0.0


@pytest.mark.parametrize("variant", ["linear", "softmax"])
def test_attention_reaches_beyond_the_convolutions(variants, variant):
    radius = STEM_RADIUS + variants.DEPTHS[variant]
    assert changes_at_centre(variants, variant, [radius])[0] > 1e-5


def test_every_block_has_the_telemetry_that_training_logs(variants):
    names = {}
    for variant, depth in variants.DEPTHS.items():
        with variants.attending(variant):
            network = get_preset(variants.preset_name(variant)).make_model()
            params = jax.eval_shape(network.init_params, jax.random.key(0))
            latents = jnp.zeros((1, 4, 4, network.latent_channels))
            inputs = {"params": params}, latents, jnp.ones(1), jnp.zeros((1, 4, 4, 3))
            _, sown = jax.eval_shape(
                functools.partial(network.apply, mutable=TELEMETRY), *inputs
            )
        telemetry = sown[TELEMETRY]["blocks"]["attention"]
        assert {v.shape for v in telemetry.values()} == {(depth,)}
        names[variant] = telemetry.keys()
    assert names["linear"] == names["softmax"] == names["none"]


def test_outside_the_context_the_model_is_the_products(variants):
    layer, tokens = make_layer(), jax.random.normal(jax.random.key(0), (1, 5, 12))
    params = layer.init(jax.random.key(1), tokens)
    expected = layer.apply(params, tokens)
    with variants.attending("softmax"):
        assert not np.allclose(layer.apply(params, tokens), expected)
    np.testing.assert_array_equal(layer.apply(params, tokens), expected)
