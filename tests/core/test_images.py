"""What an image is, and what networks see of it."""

import numpy as np
import pytest

from linearsr_jax.core.images import Image

RGB = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)


def test_rgb_of_8_bits_is_the_pixels():
    image = Image(RGB)
    assert image.depth == 8
    assert image.rgb is RGB


def test_grayscale_is_repeated():
    rgb = Image(RGB[..., :1]).rgb
    assert rgb.shape == (4, 5, 3)
    assert np.all(rgb == RGB[..., :1])


def test_16_bits_are_rounded_to_the_nearest_level():
    levels = np.arange(0, 65536, dtype=np.uint16).reshape(256, 256, 1)
    image = Image(np.repeat(levels, 3, axis=2))
    assert image.depth == 16
    assert image.rgb.dtype == np.uint8
    np.testing.assert_array_equal(image.rgb[..., 0], np.rint(levels[..., 0] / 257))


@pytest.mark.parametrize(
    ("pixels", "alpha", "message"),
    [
        (RGB.astype(np.float32), None, "uint8 or uint16"),
        (RGB[..., 0], None, "uint8 or uint16"),
        (RGB[:0], None, "not empty"),
        (RGB[..., :2], None, "1 or 3 channels"),
        (RGB, RGB[:3, :, 0], r"alpha must be uint8 \(4, 5\)"),
        (RGB, RGB[..., 0].astype(np.uint16), "alpha must be uint8"),
    ],
)
def test_what_is_no_image(pixels, alpha, message):
    with pytest.raises(ValueError, match=message):
        Image(pixels, alpha)
