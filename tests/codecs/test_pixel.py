"""The pixel codec: what bicubic upscaling leaves out, and nothing lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from linearsr_jax.codecs import CODECS, PixelCodec
from linearsr_jax.codecs.pixel import upscale_bicubic

# LR height and width: odd, different, and smaller than the kernel's support.
SIZES = [(5, 7), (8, 6), (1, 3), (1, 1)]


def images(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image_hr = rng.uniform(-1, 1, (2, 4 * height, 4 * width, 3)).astype(np.float32)
    image_lr = rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    return image_hr, image_lr


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_decode_inverts_encode(height, width):
    codec = PixelCodec()
    image_hr, image_lr = images(height, width)
    latents = codec.encode(image_hr, image_lr)
    assert latents.shape == (2, height, width, codec.channels)
    assert latents.dtype == jnp.float32
    decoded = codec.decode(latents, image_lr)
    assert decoded.shape == image_hr.shape
    np.testing.assert_allclose(decoded, image_hr, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_encode_inverts_decode(height, width):
    codec = PixelCodec(residual_std=0.25)
    _, image_lr = images(height, width)
    latents = jax.random.normal(jax.random.key(0), (2, height, width, 48))
    again = codec.encode(codec.decode(latents, image_lr), image_lr)
    np.testing.assert_allclose(again, latents, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_zeros_are_the_bicubic_image(height, width):
    _, image_lr = images(height, width)
    decoded = PixelCodec().decode(jnp.zeros((2, height, width, 48)), image_lr)
    np.testing.assert_array_equal(decoded, upscale_bicubic(image_lr))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bicubic_is_pillows(height, width):
    """Pillow on float channels; its 8-bit form is this one, rounded and clipped."""
    _, image_lr = images(height, width)
    actual = upscale_bicubic(image_lr)
    assert actual.shape == (2, 4 * height, 4 * width, 3)
    for colour in range(3):
        channel = Image.fromarray(image_lr[1, ..., colour])
        assert channel.mode == "F"
        expected = channel.resize((4 * width, 4 * height), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(actual[1, ..., colour], expected, atol=2e-6)


def test_order_of_the_channels():
    """Channel (4 row + column) 3 + colour; one HR pixel, one latent value."""
    codec = PixelCodec(residual_std=0.5)
    image_lr = np.zeros((1, 2, 3, 3), np.float32)
    for row, column, colour in [(0, 0, 0), (1, 2, 1), (3, 0, 2), (6, 9, 1)]:
        image_hr = np.zeros((1, 8, 12, 3), np.float32)
        image_hr[0, row, column, colour] = 1.0
        expected = np.zeros((1, 2, 3, 48), np.float32)
        channel = (4 * (row % 4) + column % 4) * 3 + colour
        expected[0, row // 4, column // 4, channel] = 1.0 / 0.5
        np.testing.assert_array_equal(codec.encode(image_hr, image_lr), expected)


def test_latents_are_the_residual_in_its_standard_deviations():
    image_hr, image_lr = images(3, 4)
    fine = PixelCodec(residual_std=0.1).encode(image_hr, image_lr)
    coarse = PixelCodec(residual_std=0.2).encode(image_hr, image_lr)
    np.testing.assert_allclose(fine, 2 * coarse, rtol=1e-5)
    power = np.mean((image_hr - np.asarray(upscale_bicubic(image_lr))) ** 2) / 0.01
    assert float(jnp.mean(fine**2)) == pytest.approx(power, rel=1e-5)


def test_bfloat16_latents_leave_the_base_float32():
    """The base must keep the depth of 16-bit images whatever the latents are."""
    _, image_lr = images(2, 3)
    decoded = PixelCodec().decode(jnp.zeros((2, 2, 3, 48), jnp.bfloat16), image_lr)
    assert decoded.dtype == jnp.float32
    np.testing.assert_array_equal(decoded, upscale_bicubic(image_lr))


def test_is_listed_with_its_sizes():
    codec = CODECS["pixel"]()
    assert (codec.factor, codec.channels) == (4, 48)
