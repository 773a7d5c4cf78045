"""Upscaling in bands gives the pixels of one pass."""

import dataclasses

import jax
import numpy as np
import pytest

from linearsr_jax.codecs import DcAeCodec, PixelCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, init_params
from linearsr_jax.inference.guidance import condition_from_tags
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


def test_tags_with_guidance(monkeypatch):
    model = random_model(get_preset("debug"), PixelCodec())
    assert condition_from_tags(["sky"], model.preset)
    settings = {"tags": "sky", "guidance_scale": 2.0}
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
    monkeypatch.setattr("tests.inference.test_banded.LITTLE", 2e-4)
    assert_same_pixels(random_model(preset, codec), monkeypatch, steps=2)


@pytest.mark.parametrize("gb", [0.0, -1.0, float("nan")])
def test_no_memory(gb):
    with pytest.raises(UpscaleError, match="max_memory must be above 0"):
        Upscaler(random_model(get_preset("debug"), PixelCodec()), max_memory=gb)
