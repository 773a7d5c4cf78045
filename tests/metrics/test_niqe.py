"""NIQE: the published digits, and each stage against scipy, Pillow or a closed form."""

import csv

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
from PIL import Image

from linearsr_jax.core.image_io import read_image
from linearsr_jax.metrics import niqe as niqe_module
from linearsr_jax.metrics.niqe import block_features, fit_aggd, load_niqe

SAMPLES = ["Canon_001_LR4.png", "Canon_027_LR4.png", "Nikon_010_LR4.png"]


def textured(height=192, width=288, seed=0):
    """Gray noise, blurred: something between a photograph and nothing."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width)), 1.5)
    gray = np.clip(128 + 160 * noise, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


@pytest.mark.parametrize("name", SAMPLES)
def test_published_digits(shared, name):
    realsr = shared / "benchmarks" / "RealSR"
    with open(realsr / "osediff_metrics.csv", newline="") as file:
        row = {r["file"]: r for r in csv.DictReader(file)}[name]
    sr = read_image(realsr / "osediff_sample" / name).rgb
    # 0.02 is what comparing tables needs; the recipe is followed to the last digits,
    # and exact rounding of luma's ties or a float64 window would miss this.
    assert load_niqe()(sr) == pytest.approx(float(row["NIQE"]), abs=1e-4)


def test_known_value():
    # pyiqa 0.1.10 with torch 2.13.0 on a CPU gives this for the same array.
    assert load_niqe()(textured()) == pytest.approx(11.250311, abs=1e-4)


def test_only_whole_blocks_count():
    image = textured(192, 288)
    larger = np.concatenate([image, 255 - image[:, :95]], axis=1)
    assert load_niqe()(larger) == load_niqe()(image)


def test_blur_and_noise_are_worse(shared):
    image = read_image(shared / "benchmarks/RealSR/HR" / SAMPLES[1]).rgb
    blurred = scipy.ndimage.gaussian_filter(image, (2, 2, 0))
    noise = np.random.default_rng(0).normal(size=image.shape)
    noisy = np.clip(image + 25 * noise, 0, 255).astype(np.uint8)
    niqe = load_niqe()
    assert niqe(image) + 1 < min(niqe(blurred), niqe(noisy))


def test_luma_is_that_of_the_field():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    exact = image.astype(int) @ [299, 587, 114]
    luma = niqe_module.to_luma(image)
    is_tie = exact % 1000 == 500
    assert 0 < is_tie.sum() < 20
    np.testing.assert_array_equal(luma[~is_tie], ((exact + 500) // 1000)[~is_tie])
    assert set(np.unique(luma[is_tie] - exact[is_tie] / 1000)) <= {-0.5, 0.5}


def test_normalizing_equals_scipy():
    luma = textured(96, 97)[..., 0].astype(float)
    offsets = np.arange(-3, 4)
    factor = np.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    window = np.outer(factor, factor) / factor.sum() ** 2
    mean = scipy.ndimage.convolve(luma, window, mode="nearest")
    power = scipy.ndimage.convolve(luma**2, window, mode="nearest")
    expected = (luma - mean) / (np.sqrt(power - mean**2) + 1)
    # The window is rounded to float32: 6e-8 of 255, over a deviation that is small.
    np.testing.assert_allclose(niqe_module.normalize(luma), expected, atol=1e-4)


def test_halving_equals_pillow():
    luma = textured(64, 96)[..., 0].astype(np.float32)
    expected = Image.fromarray(luma).resize((48, 32), Image.Resampling.BICUBIC)
    # Pillow leaves out what lies beyond the edge, MATLAB mirrors it.
    inside = np.s_[2:-2, 2:-2]
    np.testing.assert_allclose(
        niqe_module.halve(luma.astype(float))[inside],
        np.asarray(expected)[inside],
        atol=1e-3,
    )


def test_halving_mirrors_the_edge():
    row = np.arange(8.0)[None].repeat(2, axis=0) ** 2
    doubled = np.concatenate([row[:, ::-1], row, row[:, ::-1]], axis=1)
    both = np.concatenate([doubled, doubled, doubled])
    np.testing.assert_allclose(
        niqe_module.halve(row), niqe_module.halve(both)[1:2, 4:8], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("alpha", "left", "right"), [(2.0, 1.0, 1.0), (0.8, 0.5, 0.5), (1.5, 0.7, 1.4)]
)
def test_fit_finds_the_distribution(alpha, left, right):
    # |x / beta|^alpha is Gamma(1 / alpha); a side has the weight of its scale.
    rng = np.random.default_rng(2)
    size = (1, 1000, 1000)
    length = rng.gamma(1 / alpha, size=size) ** (1 / alpha)
    is_left = rng.random(size) < left / (left + right)
    blocks = np.where(is_left, -left * length, right * length)
    found_alpha, mean, found_left, found_right = (x[0] for x in fit_aggd(blocks))
    assert found_alpha == pytest.approx(alpha, rel=0.02)
    assert found_left == pytest.approx(left, rel=0.02)
    assert found_right == pytest.approx(right, rel=0.02)
    gamma = scipy.special.gamma
    expected = (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
    assert mean == pytest.approx(expected, abs=0.02)


def test_features_are_of_their_own_block():
    image = textured(192, 192)
    features = block_features(image)
    assert features.shape == (4, 36)
    changed = image.copy()
    # Far enough from the other blocks for every window.
    changed[150:, 150:] = 255 - changed[150:, 150:] // 2
    difference = np.abs(block_features(changed) - features).max(axis=1)
    np.testing.assert_array_equal(difference > 0, [False, False, False, True])


def test_flat_blocks():
    image = textured(192, 288)
    image[:96, :96] = 0
    # Black is exactly 0 after normalising and has no fit; it is left out.
    assert np.isnan(block_features(image)[0]).any()
    assert 0 < load_niqe()(image) < 100
    # Another flat level is 0 but for the window's rounding: on one side only.
    image[:96, :96] = 77
    assert np.isfinite(load_niqe()(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (textured(95, 300), "both sides >= 96 pixels, got 95x300"),
        (textured(100, 100), "two 96x96 blocks with texture; this image has 1 of 1"),
        (np.zeros((200, 200, 3), np.uint8), "this image has 0 of 4"),
        (np.full((200, 200, 3), 200, np.uint8), "this image has 0 of 4"),
        (np.zeros((200, 200, 3)), "uint8"),
        (np.zeros((200, 200), np.uint8), "uint8"),
    ],
)
def test_what_has_no_value(image, message):
    with pytest.raises(ValueError, match=message):
        load_niqe()(image)
