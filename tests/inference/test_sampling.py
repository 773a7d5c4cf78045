"""The compiled sampler of several experts against a plain loop over the steps."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.core.image_range import to_uint8
from linearsr_jax.diffusion.experts import expert_grid, find_expert
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.inference.guidance import (
    Guidance,
    condition_from_tags,
    make_guidance,
)
from linearsr_jax.inference.sampling import cut_segments, draw_noise, make_upscale
from linearsr_jax.models.presets import get_preset
from tests.experts_testing import FOUR, PRESET, make_experts
from tests.models.test_blocks import random_like

MODEL = PRESET.make_model()
CODEC = PixelCodec()


@pytest.fixture(scope="module")
def inputs():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return image, draw_noise(PRESET, CODEC, 6, 8, steps=4, seed=1)


def naive_upscale(preset, experts, boundaries, sigmas, image, noise):
    """Step by step, second order as published, the expert looked up at each level."""
    lr = np.float32(image)[None] / 127.5 - 1.0
    prediction = PREDICTIONS[preset.prediction]
    apply = jax.jit(MODEL.apply)
    x, before = noise[None].astype(np.float64), None
    with np.errstate(divide="ignore"):
        lam = np.log((1 - sigmas) / sigmas)
    for i in range(len(sigmas) - 1):
        params = experts[find_expert(sigmas[i], boundaries)]
        level = np.float32(sigmas[i])
        latents = prediction.network_input(np.float32(x), level)
        output = apply({"params": params}, latents, level[None], lr)
        x0_hat = np.asarray(prediction.x0_hat(x, np.asarray(output), level), np.float64)
        if i == len(sigmas) - 2:
            x = x0_hat
            continue
        h = lam[i + 1] - lam[i]
        d = x0_hat
        if i > 0:
            d = x0_hat + (x0_hat - before) * h / (2 * (lam[i] - lam[i - 1]))
        x = (sigmas[i + 1] / sigmas[i]) * x + (1 - sigmas[i + 1]) * (1 - np.exp(-h)) * d
        before = x0_hat
    image = np.asarray(CODEC.decode(np.float32(x), lr))[0]
    return np.clip(np.round((image + 1) * 127.5), 0, 255)


@pytest.mark.parametrize(("boundaries", "steps"), [(FOUR, 6), (FOUR, 2), ((), 3)])
@pytest.mark.parametrize("unshifted_start", [0.999, 1.0])
def test_each_step_is_of_its_expert(inputs, boundaries, steps, unshifted_start):
    image, noise = inputs
    preset = dataclasses.replace(PRESET, unshifted_start=unshifted_start)
    experts = make_experts(len(boundaries) + 1)
    upscale = jax.jit(make_upscale(MODEL, preset, steps=steps, boundaries=boundaries))
    actual, is_finite = upscale(experts, CODEC, image, noise)
    grid = expert_grid(steps, boundaries, shift=3.0, unshifted_start=unshifted_start)
    expected = naive_upscale(preset, experts, boundaries, grid.sigmas, image, noise)
    assert is_finite
    assert np.abs(to_uint8(actual).astype(int) - expected).max() <= 1
    if boundaries:
        # The experts differ enough for another choice to show.
        rotated = experts[1:] + experts[:1]
        other, _ = upscale(rotated, CODEC, image, noise)
        assert np.abs(to_uint8(other).astype(int) - expected).max() > 10


def test_segments_are_the_table_in_order():
    (whole,) = cut_segments(PRESET, steps=6)
    assert whole.expert == 0
    assert whole.table.sigma.shape == (6,)
    segments = cut_segments(PRESET, steps=9, boundaries=FOUR)
    assert [segment.expert for segment in segments] == [3, 2, 1, 0]
    sigma = np.concatenate([segment.table.sigma for segment in segments])
    grid = expert_grid(9, FOUR, shift=3.0, unshifted_start=1.0)
    np.testing.assert_array_equal(sigma, grid.sigmas[:-1])
    one_step = cut_segments(PRESET, steps=1, boundaries=FOUR)
    assert [segment.expert for segment in one_step] == [3]


@pytest.fixture(scope="module")
def with_tags():
    """(run(guidance) -> HR image of debug with nothing zero, tags, others)."""
    preset = get_preset("debug")
    model = preset.make_model()
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    params = random_like(shapes, scale=0.2)
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    noise = draw_noise(preset, CODEC, 6, 8, steps=2, seed=1)
    upscale = jax.jit(make_upscale(model, preset, steps=2))

    def run(guidance):
        return to_uint8(upscale([params], CODEC, image, noise, guidance)[0])

    tags, others = (
        condition_from_tags(tags, preset) for tags in (["sky"], ["zoo", "flower"])
    )
    return run, tags, others


class TestTags:
    def test_matter(self, with_tags):
        run, tags, others = with_tags
        outputs = [run(Guidance(x)) for x in (None, tags, others)]
        for one, other in itertools.combinations(outputs, 2):
            assert np.abs(one.astype(int) - other).max() > 1

    def test_scale_1_is_no_guidance_and_0_no_tags(self, with_tags):
        run, tags, _ = with_tags
        both = make_guidance(tags, None, 2.0)
        for scale, condition in ((1.0, tags), (0.0, None)):
            guided = run(both._replace(scale=scale)).astype(int)
            # One program for both, another for one: the same but for rounding.
            assert np.abs(guided - run(Guidance(condition))).max() <= 1

    def test_null_is_what_guidance_departs_from(self, with_tags):
        run, tags, others = with_tags
        same = run(Guidance(tags, tags, 3.0)).astype(int)
        assert np.abs(same - run(Guidance(tags))).max() <= 1
        assert np.abs(run(Guidance(tags, others, 3.0)) - same).max() > 1
