"""Upscaling in bands gives the pixels of one pass."""

import dataclasses

import jax
import numpy as np
import pytest

from linearsr_jax.codecs import DcAeCodec, PixelCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, init_params
from linearsr_jax.inference.guidance import condition_from_tags
from linearsr_jax.inference.sizes import OutputSize
from linearsr_jax.inference.upscaler import UpscaleError, Upscaler
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained.model_folder import PretrainedModel
from tests.experts_testing import FOUR, make_pretrained
from tests.models.test_blocks import random_like

IMAGE = np.random.default_rng(0).integers(0, 256, (29, 18, 3), dtype=np.uint8)
# For 29 rows of 18 that is a few rows at a time.
LITTLE = 1.2e-3


def random_model(preset, codec):
    shapes = jax.eval_shape(preset.make_model().init_params, jax.random.key(0))
    params = random_like(shapes, scale=0.2)
    return PretrainedModel("mine", preset, codec, (params,), (), {})


def assert_same_pixels(model, monkeypatch, **settings):
    """Of the bands, which must have been bands, and of one pass."""
    whole = Upscaler(model, max_memory=10.0)(IMAGE, **settings)
    rows = []
    upscaler = Upscaler(model, max_memory=LITTLE)
    compiled = upscaler._compiled
    monkeypatch.setattr(
        upscaler, "_compiled", lambda *args: rows.append(args[1]) or compiled(*args)
    )
    banded = upscaler(IMAGE, **settings)
    assert 1 <= rows[0] < 29
    assert np.abs(banded.astype(int) - whole).max() <= 1
    assert np.std(whole.astype(float)) > 10


@pytest.mark.parametrize("steps", [1, 3])
def test_pixels(monkeypatch, steps):
    model = random_model(get_preset("debug"), PixelCodec())
    assert_same_pixels(model, monkeypatch, steps=steps, seed=3)


def test_parts_are_counted_to_the_end():
    model = random_model(get_preset("debug"), PixelCodec())
    seen = []
    upscaler = Upscaler(
        model, max_memory=LITTLE, on_part=lambda *part: seen.append(part)
    )
    for _ in range(2):
        seen.clear()
        upscaler(IMAGE, steps=3)
        total = seen[0][1]
        # Steps, times stem, two blocks and head, times bands.
        assert total % (3 * 4) == 0
        assert total > 3 * 4
        assert seen == [(done, total) for done in range(1, total + 1)]
    seen.clear()
    Upscaler(model, max_memory=10.0, on_part=lambda *part: seen.append(part))(IMAGE)
    assert seen == []


def test_tags_with_guidance(monkeypatch):
    model = random_model(get_preset("debug"), PixelCodec())
    assert condition_from_tags(["sky"], model.preset)
    settings = {"tags": "sky", "guidance_scale": 2.0}
    monkeypatch.setattr("tests.inference.test_banded.LITTLE", 2e-3)
    assert_same_pixels(model, monkeypatch, steps=2, **settings)


@pytest.mark.parametrize("offload_experts", [False, True])
def test_experts(offload_experts):
    whole, banded = (
        Upscaler(make_pretrained(FOUR), max_memory=gb, offload_experts=offload_experts)(
            IMAGE, steps=6
        )
        for gb in (10.0, LITTLE)
    )
    assert np.abs(banded.astype(int) - whole).max() <= 1


def test_latents(monkeypatch):
    """Of an autoencoder, whose attention sees the whole image."""
    config = DcAeConfig(
        widths=(4, 4, 8, 8),
        encoder_depths=(1, 1, 1, 1),
        decoder_depths=(1, 1, 1, 1),
        first_attention=2,
        head_size=4,
        latent_channels=4,
    )
    codec = DcAeCodec(init_params(config, jax.random.key(0)), config)
    preset = dataclasses.replace(
        get_preset("debug"),
        codec="dc_ae",
        codec_factor=8,
        latent_channels=4,
        prediction="velocity",
        unshifted_start=0.999,
    )
    monkeypatch.setattr("tests.inference.test_banded.LITTLE", 4e-4)
    assert_same_pixels(random_model(preset, codec), monkeypatch, steps=2)


@pytest.mark.parametrize("gb", [0.0, -1.0, float("nan")])
def test_no_memory(gb):
    with pytest.raises(UpscaleError, match="max_memory must be a number from 1e-09"):
        Upscaler(random_model(get_preset("debug"), PixelCodec()), max_memory=gb)


class OutOfMemory:
    """Programs of whole images, or of more rows than some, that do not fit."""

    def __init__(self, upscaler, rows, error):
        self.compiled, self.rows, self.error = upscaler._compiled, rows, error
        self.tried = []

    def __call__(self, steps, rows, parts):
        self.tried.append(rows)
        if rows is None or rows > self.rows:

            def run(experts, codec, pixels, noise, guidance):
                noise[:] = 0  # as bands do, before they fail
                raise self.error

            return run
        return self.compiled(steps, rows, parts)


ERRORS = [
    MemoryError(),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_is_tried_again_in_bands(monkeypatch, caplog, error):
    upscaler = Upscaler(random_model(get_preset("debug"), PixelCodec()))
    whole = upscaler(IMAGE, steps=2)
    failing = OutOfMemory(upscaler, 8, error)
    monkeypatch.setattr(upscaler, "_compiled", failing)
    banded = upscaler(IMAGE, steps=2)
    assert failing.tried == [None, 14, 7]
    assert np.abs(banded.astype(int) - whole).max() <= 1
    assert "out of memory; again in bands of 7 rows" in caplog.text


def test_out_of_memory_ends_with_what_helps(monkeypatch):
    upscaler = Upscaler(random_model(get_preset("debug"), PixelCodec()))
    failing = OutOfMemory(upscaler, 0, ERRORS[1])
    monkeypatch.setattr(upscaler, "_compiled", failing)
    with pytest.raises(UpscaleError, match=r"out of memory.*bfloat16 \(--dtype\)"):
        upscaler(IMAGE, steps=1)
    assert failing.tried[-1] == 1
    other = jax.errors.JaxRuntimeError("INTERNAL: something else")
    monkeypatch.setattr(upscaler, "_compiled", OutOfMemory(upscaler, 0, other))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        upscaler(IMAGE, steps=1)


def test_a_limit_is_kept_or_refused():
    model = random_model(get_preset("debug"), PixelCodec())
    with pytest.raises(UpscaleError, match=r"18x29 pixels .* raise max_memory"):
        Upscaler(model, max_memory=1e-4)(IMAGE)


def test_estimates_grow_with_the_work():
    upscaler = Upscaler(random_model(get_preset("debug"), PixelCodec()))
    small, large = upscaler.estimate(50, 40), upscaler.estimate(500, 400)
    # Large images take less for each pixel: their blocks take a band at a time.
    assert 50 * small.memory < large.memory < 100 * small.memory
    assert 50 * small.seconds < large.seconds < 200 * small.seconds
    twice = upscaler.estimate(50, 40, steps=4, guided=True)
    assert twice.seconds == pytest.approx(
        8 * upscaler.estimate(50, 40, steps=1).seconds
    )
    two_passes = upscaler.estimate(50, 40, size=OutputSize(8))
    assert 4 * small.seconds < two_passes.seconds < 6 * small.seconds
    assert "GB" in str(small)
    little = Upscaler(upscaler.model, max_memory=0.3).estimate(500, 400)
    assert little.rows
    assert little.memory <= 0.3e9 < large.memory
