"""Experts that come and go: the same pixels, and never three at a time."""

import gc

import jax
import numpy as np
import pytest

from linearsr_jax import Upscaler
from linearsr_jax.inference.offloaded import OffloadedDenoiser
from linearsr_jax.inference.sampling import WholeDenoiser, cut_segments, upscale
from tests.experts_testing import FOUR, HEAD_SHAPE, PRESET, make_pretrained


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def offloaded():
    return Upscaler(make_pretrained(FOUR), offload_experts=True)


def resident():
    """Experts on the device: each has one array of this shape."""
    return sum(not x.is_deleted() and x.shape == HEAD_SHAPE for x in jax.live_arrays())


@pytest.mark.parametrize("boundaries", [FOUR, ()])
def test_same_pixels(pixels, boundaries):
    model = make_pretrained(boundaries)
    upscalers = [Upscaler(model, offload_experts=x) for x in (False, True)]
    for steps in (1, 5):
        one, other = (up(pixels, steps=steps, seed=2).astype(int) for up in upscalers)
        assert np.abs(one - other).max() <= 1
        assert np.abs(one - one[0, 0]).max() > 10


def test_two_experts_at_most_and_none_in_the_end(pixels, offloaded, monkeypatch):
    gc.collect()
    before = resident()
    seen, put = [], jax.device_put

    def device_put(*args, **kwargs):
        result = put(*args, **kwargs)
        seen.append(resident() - before)
        return result

    monkeypatch.setattr(jax, "device_put", device_put)
    for steps, expected in ((7, [1, 2, 2, 2]), (2, [1, 2]), (1, [1])):
        seen.clear()
        offloaded(pixels, steps=steps)
        assert seen == expected
        assert resident() == before


def test_the_next_expert_comes_while_one_computes(pixels, offloaded, monkeypatch):
    events, put, wait = [], jax.device_put, jax.block_until_ready
    monkeypatch.setattr(jax, "device_put", lambda *a: events.append("put") or put(*a))
    monkeypatch.setattr(
        jax, "block_until_ready", lambda *a: events.append("wait") or wait(*a)
    )
    offloaded(pixels, steps=4)
    assert events == ["put", "put", "wait", "put", "wait", "put", "wait", "wait"]


def test_the_codec_has_the_device_to_itself(pixels):
    model = make_pretrained(FOUR)
    denoiser = OffloadedDenoiser(PRESET.make_model(), PRESET)
    before, seen, decode = resident(), [], denoiser.decode
    denoiser.decode = lambda *args: seen.append(resident() - before) or decode(*args)
    segments = cut_segments(PRESET, steps=4, boundaries=FOUR)
    noise = np.zeros((6, 9, 48), np.float32)
    upscale(denoiser, segments, model.experts, model.codec, pixels, noise)
    assert seen == [0]


def test_programs_are_shared_by_experts_of_as_many_steps(pixels, monkeypatch):
    traced = []
    take_steps = WholeDenoiser.take_steps

    def counted(*args):
        traced.append(args)
        return take_steps(*args)

    monkeypatch.setattr(WholeDenoiser, "take_steps", counted)
    model = make_pretrained(FOUR)
    denoiser = OffloadedDenoiser(PRESET.make_model(), PRESET)
    segments = cut_segments(PRESET, steps=4, boundaries=FOUR)
    noise = np.zeros((6, 9, 48), np.float32)
    for _ in range(2):
        upscale(denoiser, segments, model.experts, model.codec, pixels, noise)
    assert len(traced) == 1
