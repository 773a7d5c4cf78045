"""Residual blocks in the stem: they grow a model without changing it."""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.models.bands import stem_halo
from linearsr_jax.models.embeddings import LRStem
from linearsr_jax.models.presets import PRESETS, get_preset
from linearsr_jax.pretrained.model_folder import load_pretrained, save_pretrained
from linearsr_jax.training.initial_state import load_origin
from linearsr_jax.training.record import TrainError


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(-1, 1, (1, 24, 9, 3)), jnp.float32)


def test_new_blocks_change_nothing(image):
    small, large = (LRStem((4, 6, 5), (1, 1, 1), jnp.float32, n) for n in (0, 2))
    params = small.init(jax.random.key(0), image)["params"]
    grown = large.init(jax.random.key(1), image)["params"] | params
    assert len(grown) == len(params) + 8
    np.testing.assert_array_equal(
        large.apply({"params": grown}, image), small.apply({"params": params}, image)
    )


def test_a_block_is_what_it_says(image):
    stem = LRStem((4, 6, 5), (1, 1, 1), jnp.float32, 1)
    params = nn.meta.unbox(stem.init(jax.random.key(0), image)["params"])
    rng = np.random.default_rng(1)
    params["kernel_block_0_1"] = jnp.asarray(rng.normal(size=(3, 3, 5, 5)), jnp.float32)
    before = {name: x for name, x in params.items() if "block" not in name}
    x = LRStem((4, 6, 5), (1, 1, 1), jnp.float32).apply({"params": before}, image)
    y = x
    for name in ("block_0_0", "block_0_1"):
        y = y * jax.nn.sigmoid(y)
        padded = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = params[f"kernel_{name}"]
        y = sum(
            padded[:, i : i + 24, j : j + 9] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
    np.testing.assert_allclose(stem.apply({"params": params}, image), x + y, atol=1e-4)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_halo_is_what_a_row_depends_on(blocks):
    stem = LRStem((4, 4, 4), (1, 1, 1), jnp.float32, blocks)
    image = jnp.zeros((1, 41, 5, 3))
    params = stem.init(jax.random.key(0), image)["params"]
    params = jax.tree.map(lambda x: jnp.ones_like(x) * 0.1, params)
    gradient = jax.grad(lambda x: stem.apply({"params": params}, x)[0, 20].sum())(image)
    rows = np.flatnonzero(np.abs(gradient[0]).max((1, 2)))
    assert rows.max() - 20 == 20 - rows.min() == stem_halo((1, 1, 1), blocks)


def test_a_smaller_model_starts_a_larger_one(tmp_path):
    small = get_preset("debug")
    params = jax.jit(small.make_model().init_params)(jax.random.key(0))
    save_pretrained(tmp_path, (params,), small, PixelCodec(), training={}, card="")
    settings = SimpleNamespace(init_from=str(tmp_path), expert_boundaries=())
    larger = dataclasses.replace(small, stem_blocks=2)
    assert load_origin(settings, larger).preset == small
    with pytest.raises(TrainError, match="other sizes"):
        load_origin(settings, dataclasses.replace(larger, width=64))
    names = traverse_util.flatten_dict(load_pretrained(tmp_path).experts[0], sep=".")
    assert not [name for name in names if "block_" in name]


def test_nano_is_within_its_budget():
    shapes = jax.eval_shape(PRESETS["nano"].make_model().init_params, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) < 1.3e6
