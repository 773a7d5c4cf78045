"""Agreement with the input: coarse colours, and LR-PSNR."""

import numpy as np
import PIL.Image
import pytest

from linearsr_jax import Upscaler
from linearsr_jax.codecs import DcAeCodec, PixelCodec
from linearsr_jax.inference.errors import UpscaleError
from linearsr_jax.inference.fidelity import fix_colors, low_pass, make_consistent
from linearsr_jax.metrics.lr_consistency import lr_psnr


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler.from_pretrained("nano")


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(30, 220, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((24, 20), PIL.Image.BICUBIC)).astype(float)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def unit(image):
    return image.astype(np.float32) / 127.5 - 1


def test_the_reduced_output_is_the_input(upscaler, noisy):
    plain, consistent = (upscaler(noisy, consistent=c) for c in (False, True))
    # 45 dB counts as consistent in the challenges.
    assert lr_psnr(plain, noisy) < 44
    assert lr_psnr(consistent, noisy) > 50
    # It is the same picture still.
    assert np.abs(consistent.astype(int) - plain).mean() < 8


@pytest.mark.parametrize("given", [{"scale": 2.6}, {"size": (50, 70)}, {"scale": 6.0}])
def test_at_any_size(upscaler, noisy, given):
    result = PIL.Image.fromarray(upscaler(noisy, consistent=True, **given))
    reduced = np.asarray(result.resize((24, 20), PIL.Image.BICUBIC)).astype(int)
    assert np.sqrt(np.mean((reduced - noisy) ** 2)) < 1


def test_black_and_white_stay_within_the_range():
    given = np.where(np.arange(16) % 2, 1.0, -1.0) * np.ones((16, 1))
    given = np.repeat(given[..., None], 3, axis=2).astype(np.float32)
    output = make_consistent(np.zeros((64, 64, 3), np.float32), given)
    assert np.abs(output).max() <= 1


def test_colours_are_fixed_and_detail_is_kept(noisy):
    enlarged = PIL.Image.fromarray(noisy).resize((96, 80), PIL.Image.BICUBIC)
    true = unit(np.asarray(enlarged))
    checker = 0.1 * ((np.indices((80, 96)).sum(0) % 2) * 2 - 1)[..., None]
    shift = np.array([0.2, -0.1, 0.05])
    shifted = (true + shift + checker).astype(np.float32)
    fixed = fix_colors(shifted, unit(noisy))
    np.testing.assert_allclose((fixed - true).mean((0, 1)), 0, atol=0.01)
    np.testing.assert_allclose(fixed - true - checker, 0, atol=0.03)


def test_the_filter_is_the_wavelets():
    impulse = np.zeros((65, 65, 1), np.float32)
    impulse[32, 32] = 1
    line = low_pass(impulse)[:, :, 0].sum(0)
    expected = np.ones(1)
    for gap in (1, 2, 4, 8, 16):
        kernel = np.zeros(2 * gap + 1)
        kernel[[0, gap, 2 * gap]] = 0.25, 0.5, 0.25
        expected = np.convolve(expected, kernel)
    np.testing.assert_allclose(line[1:64], expected, atol=1e-7)


def test_uncertainty_is_the_deviation_over_seeds(noisy):
    sampled = Upscaler.from_pretrained("nano-flow")
    found = sampled.uncertainty(noisy, count=3, seed=5, steps=2)
    results = [sampled(noisy, seed=s, steps=2).astype(float) for s in (5, 6, 7)]
    expected = np.sqrt(np.var(results, axis=0, ddof=1).mean(2))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found.max() > 1
    with pytest.raises(UpscaleError, match="same result for every seed"):
        sampled.uncertainty(noisy, steps=1)


def test_one_step_has_no_uncertainty(upscaler, noisy):
    with pytest.raises(UpscaleError, match=r"with 1 step .* nano-flow \(--model\)"):
        upscaler.uncertainty(noisy)


def test_which_models_keep_colours(upscaler, noisy):
    assert PixelCodec().keeps_colors
    assert not DcAeCodec.keeps_colors.fget(None)
    plain = upscaler(noisy)
    np.testing.assert_array_equal(upscaler(noisy, color_fix=False), plain)
    assert np.any(upscaler(noisy, color_fix=True) != plain)
