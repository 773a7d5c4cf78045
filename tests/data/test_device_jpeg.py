"""JPEG in jax.numpy against libjpeg."""

import io

import jax
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from PIL import Image

from linearsr_jax.data import device_jpeg

BUFFER = (40, 56)
_jpeg = jax.jit(device_jpeg.jpeg)


def libjpeg(pixels, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(stream) as decoded:
        return np.asarray(decoded).astype(float)


def on_device(pixels, quality):
    """Through a buffer that holds something else beyond the image."""
    height, width = pixels.shape[:2]
    buffer = np.random.default_rng(9).integers(0, 256, (3, *BUFFER)).astype(np.float32)
    buffer[:, :height, :width] = pixels.transpose(2, 0, 1)
    decoded = np.asarray(_jpeg(buffer, height, width, quality))
    assert decoded.shape == (3, *BUFFER)
    return decoded[:, :height, :width].transpose(1, 2, 0)


def make_pixels(height, width, smooth):
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    image = scipy.ndimage.gaussian_filter(noise, (smooth, smooth, 0))
    return np.rint(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)


@pytest.mark.parametrize("size", [(40, 56), (32, 48), (33, 47), (39, 18)])
@pytest.mark.parametrize("quality", [30, 49, 50, 75, 95, 100])
def test_decodes_to_what_libjpeg_decodes_to(size, quality):
    pixels = make_pixels(*size, smooth=1.5)
    expected = libjpeg(pixels, quality)
    error = np.abs(on_device(pixels, quality) - expected)
    # A coefficient on the border of two quanta changes its whole block: few do.
    assert error.mean() < 0.5
    assert (error <= 1).mean() > 0.9
    assert error.mean() < 0.2 * np.abs(expected - pixels).mean()


def test_tables_are_libjpegs():
    for quality in (1, 30, 50, 77, 100):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, "JPEG", quality=quality)
        with Image.open(stream) as decoded:
            expected = decoded.quantization
        tables = device_jpeg.quantization_tables(quality)
        for number, table in enumerate(tables):
            assert np.asarray(table).ravel().tolist() == expected[number]


def test_transform_is_scipys_dct():
    block = np.random.default_rng(0).normal(size=(8, 8))
    expected = scipy.fft.dctn(block, norm="ortho")
    ours = device_jpeg._DCT @ block @ device_jpeg._DCT.T
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 127, 128, 255])
def test_flat_gray_comes_back(level):
    pixels = np.full((20, 20, 3), level, np.uint8)
    np.testing.assert_array_equal(on_device(pixels, 100), pixels)


def test_one_pixel():
    pixels = np.array([[[200, 100, 50]]], np.uint8)
    assert np.abs(on_device(pixels, 95) - libjpeg(pixels, 95)).max() <= 1
