"""The network in bands: equal to the whole, and bounded in memory."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.models.bands import BandedNetwork, cut_bands, stem_halo
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.linear_dit import LinearDiT
from tests.models.test_blocks import close
from tests.models.test_linear_dit import SIZES, random_params

STRIDES = {"all": (2, 2, 2), "one": (1, 1, 2), "none": (1, 1, 1)}


def make(height, width, strides=(1, 1, 2), *, batch=2, **fields):
    """(model, params, latents, sigma, image_lr, memory), nothing zero."""
    model = LinearDiT(**SIZES | {"stem_strides": strides} | fields)
    rng = np.random.default_rng(height)
    factor = int(np.prod(strides))
    latents = rng.standard_normal((batch, height, width, model.latent_channels))
    image_lr = rng.uniform(-1, 1, (batch, factor * height, factor * width, 3))
    condition = rng.standard_normal((batch, 4, model.condition_features))
    latents, image_lr, condition = (
        x.astype(np.float32) for x in (latents, image_lr, condition)
    )
    sigma = np.linspace(0.3, 0.8, batch, dtype=np.float32)
    mask = np.ones((batch, 4), bool)
    mask[-1, 2:] = False
    params = random_params(model, (latents, sigma, image_lr))
    condition = Condition(condition, mask)
    memory = jax.jit(
        lambda p: model.apply({"params": p}, condition, method="project_condition")
    )(params)
    return model, params, latents, sigma, image_lr, memory


def run_whole(model, params, *inputs):
    return jax.jit(
        lambda params: model.apply({"params": params}, *inputs, method="denoise")
    )(params)


@pytest.mark.parametrize("height", [1, 5, 6, 13])
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_bands_fill_the_image_once(height, rows):
    bands = cut_bands(height, rows, halo=2)
    everything = np.arange(height)
    filled = np.concatenate([everything[band.rows] for band in bands])
    np.testing.assert_array_equal(filled, everything)
    heights = {len(everything[band.rows]) for band in bands}
    assert max(heights) <= rows
    assert max(heights) - min(heights) <= 1
    for band in bands:
        window = everything[band.window]
        count = len(everything[band.rows])
        np.testing.assert_array_equal(
            window[band.skip : band.skip + count], everything[band.rows]
        )
        for row in everything[band.rows]:
            near = everything[max(row - 2, 0) : row + 3]
            assert np.isin(near, window).all()


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
def test_stem_halo_is_the_smallest_that_suffices(strides):
    """A band with the halo is exact, one with a row less is not."""
    model, params, latents, _, image_lr, _ = make(12, 3, strides)
    stride = int(np.prod(strides))

    def embed(rows):
        tokens = model.apply(
            {"params": params},
            latents[:, rows],
            image_lr[:, stride * rows.start : stride * rows.stop],
            method="embed",
        )
        return np.asarray(tokens).reshape(2, rows.stop - rows.start, 3, -1)

    whole, halo = embed(slice(0, 12))[:, 5:7], stem_halo(strides)
    close(embed(slice(5 - halo, 7 + halo))[:, halo:-halo], whole)
    short = halo - 1
    differs = embed(slice(5 - short, 7 + short))[:, short : short + 2] - whole
    assert np.abs(differs).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({}, 3),
        ({"strides": STRIDES["all"], "qk_norm": True}, 4),
        ({"strides": STRIDES["none"], "attention_floor": 0.25}, 1),
        ({"position_extent": 8.0}, 4),
        ({}, 100),
    ],
)
def test_equals_the_whole(fields, rows):
    model, params, *inputs = make(11, 5, **fields)
    whole = run_whole(model, params, *inputs)
    banded = BandedNetwork(model, rows)(params, *inputs)
    assert banded.dtype == np.float32
    close(banded, np.asarray(whole, np.float64))
    # Without a condition, too, and it mattered.
    without = BandedNetwork(model, rows)(params, *inputs[:-1])
    plain = run_whole(model, params, *inputs[:-1], None)
    close(without, np.asarray(plain, np.float64))
    assert np.abs(banded - without).max() > 1e-3


def test_bfloat16_is_as_near_to_float32_as_the_whole():
    exact, params, *inputs = make(11, 5)
    model = exact.clone(dtype=jnp.bfloat16)
    exact, whole = (run_whole(m, params, *inputs) for m in (exact, model))
    banded = BandedNetwork(model, 4)(params, *inputs)
    errors = [np.sqrt(np.mean(np.square(x - exact))) for x in (banded, whole)]
    assert 0 < errors[0] < 1.5 * errors[1]


def device_bytes(height, monkeypatch):
    """The most bytes on the device beside weights and input, at any program's start."""
    model, params, *inputs = make(height, 16, batch=1)
    banded = BandedNetwork(model, 8)
    params = jax.device_put(params)
    gc.collect()
    before = sum(x.nbytes for x in jax.live_arrays())
    most = 0
    for name in ("_embed", "_add_state", "_apply_block", "_read_out"):
        program = getattr(banded, name)

        def measured(*args, program=program, **settings):
            nonlocal most
            held = sum(x.nbytes for x in jax.live_arrays()) - before
            memory = program.lower(*args, **settings).compile().memory_analysis()
            used = memory.temp_size_in_bytes + memory.output_size_in_bytes
            handed = sum(
                x.nbytes for x in jax.tree.leaves(args) if isinstance(x, np.ndarray)
            )
            most = max(most, held + used + handed)
            return program(*args, **settings)

        monkeypatch.setattr(banded, name, measured)
    banded(params, *inputs)
    return most


def test_device_memory_does_not_grow_with_the_height(monkeypatch):
    low, high = (device_bytes(height, monkeypatch) for height in (24, 192))
    assert high == pytest.approx(low, rel=0.02)
    model, params, *inputs = make(192, 16, batch=1)
    whole = jax.jit(
        lambda p, *x: model.apply({"params": p}, *x, method="denoise")
    ).lower(params, *inputs)
    assert high < whole.compile().memory_analysis().temp_size_in_bytes / 4
