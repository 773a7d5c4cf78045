"""Output sizes: exact, by any scale, in one pass or two."""

import numpy as np
import PIL.Image
import pytest

from linearsr_jax import Upscaler
from linearsr_jax.core.images import Image
from linearsr_jax.inference.errors import UpscaleError
from linearsr_jax.inference.sizes import OutputSize, plan_passes, resize


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler.from_pretrained("nano")


@pytest.fixture(scope="module")
def pixels():
    y, x = np.mgrid[:11, :13]
    return np.stack([x * 18, y * 22, 255 - x * 9], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("given", "size", "wanted"),
    [
        ({}, (13, 11), (52, 44)),
        ({"scale": 1}, (13, 11), (13, 11)),
        ({"scale": 2.5}, (13, 11), (32, 28)),
        ({"scale": 8.0}, (13, 11), (104, 88)),
        ({"scale": 1.0}, (1, 1), (1, 1)),
        ({"exact": (100, 33)}, (13, 11), (100, 33)),
        ({"exact": (26, None)}, (13, 11), (26, 22)),
        ({"exact": (None, 33)}, (13, 11), (39, 33)),
        ({"max_side": 40}, (13, 11), (40, 34)),
        ({"max_side": 4000}, (13, 11), (52, 44)),
        ({"max_side": 13}, (13, 11), (13, 11)),
        ({"scale": 2, "max_side": 24}, (13, 11), (24, 20)),
        ({"max_side": 100}, (1, 300), None),
        ({"exact": (12, 11)}, (13, 11), None),
        ({"exact": (105, 88)}, (13, 11), None),
    ],
)
def test_the_size_that_is_meant(given, size, wanted):
    if wanted is None:
        with pytest.raises(UpscaleError, match="cannot become"):
            OutputSize(**given).of(*size)
    else:
        assert OutputSize(**given).of(*size) == wanted


@pytest.mark.parametrize(
    "given",
    [
        {"scale": 0.5},
        {"scale": 8.1},
        {"scale": float("nan")},
        {"exact": (0, 10)},
        {"exact": (None, None)},
        {"max_side": 0},
        {"scale": 2, "exact": (4, 4)},
        {"max_side": 9, "exact": (4, 4)},
    ],
)
def test_sizes_that_mean_nothing(given):
    with pytest.raises(UpscaleError):
        OutputSize(**given)


def test_stretching_is_noticed():
    assert OutputSize(exact=(40, 20)).stretches(10, 10)
    assert not OutputSize(exact=(40, 39)).stretches(10, 10)
    assert not OutputSize(scale=2.3).stretches(7, 13)


def test_passes():
    assert plan_passes((10, 20), (40, 80)) == ((10, 20),)
    assert plan_passes((10, 20), (41, 80)) == ((10, 20), (11, 20))
    assert plan_passes((10, 20), (80, 160)) == ((10, 20), (20, 40))
    # One side alone: the other is not reduced on the way.
    assert plan_passes((10, 20), (80, 20)) == ((10, 20), (20, 20))


def test_resizing_is_pillows_in_float32():
    image = np.random.default_rng(0).normal(size=(20, 30, 3)).astype(np.float32)
    resized = resize(image, (13, 9))
    plane = PIL.Image.fromarray(image[..., 1]).resize((13, 9), PIL.Image.LANCZOS)
    np.testing.assert_array_equal(resized[..., 1], np.asarray(plane))
    assert resize(image, (30, 20)) is image


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({"scale": 2.5}, (28, 32)),
        ({"scale": 6.3}, (69, 82)),
        ({"size": (100, 33)}, (33, 100)),
        ({"max_side": 15}, (13, 15)),
    ],
)
def test_outputs_have_exactly_the_size(upscaler, pixels, given, shape):
    result = upscaler(pixels, **given)
    assert result.shape == (*shape, 3)
    # It is the same picture, by another library's enlargement.
    simple = PIL.Image.fromarray(pixels).resize(shape[::-1], PIL.Image.BICUBIC)
    assert np.abs(result.astype(int) - np.asarray(simple)).mean() < 6


def test_a_reduced_result_is_the_result_reduced(upscaler, pixels):
    four = PIL.Image.fromarray(upscaler(pixels))
    two = np.asarray(four.resize((26, 22), PIL.Image.LANCZOS)).astype(int)
    assert np.abs(upscaler(pixels, scale=2) - two).max() <= 1


@pytest.mark.parametrize("scale", [1.0, 3.0, 8.0])
def test_one_pixel(upscaler, scale):
    pixel = np.full((1, 1, 3), (200, 100, 50), np.uint8)
    result = upscaler(pixel, scale=scale)
    assert result.shape == (round(scale), round(scale), 3)
    assert np.abs(result.astype(int) - pixel).max() < 12


def test_alpha_and_depth_at_another_size(upscaler, pixels):
    deep = pixels.astype(np.uint16) * 257
    alpha = np.full((11, 13), 65535, np.uint16)
    alpha[:, :6] = 0
    result = upscaler(Image(deep, alpha), scale=1.7)
    assert result.pixels.shape == (19, 22, 3)
    assert result.depth == 16
    assert np.all(result.alpha[:, :7] == 0)
    assert np.all(result.alpha[:, -9:] == 65535)
