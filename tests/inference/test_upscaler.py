"""The public API, with the bundled model."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from linearsr_jax import Upscaler
from linearsr_jax.core import images
from linearsr_jax.inference.upscaler import UpscaleError


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler.from_pretrained("nano")


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((13, 17), Image.Resampling.BICUBIC))


def test_same_kind_out(upscaler, pixels):
    image = upscaler(Image.fromarray(pixels))
    assert isinstance(image, Image.Image)
    assert image.size == (52, 68)
    np.testing.assert_array_equal(np.asarray(image), upscaler(pixels))


def test_an_image_of_a_file_keeps_what_it_carries(upscaler, pixels):
    result = upscaler(images.Image(pixels, icc=b"profile", exif=b"exif"))
    np.testing.assert_array_equal(result.pixels, upscaler(pixels))
    assert (result.icc, result.exif) == (b"profile", b"exif")
    gray = images.Image(pixels[..., :1])
    np.testing.assert_array_equal(upscaler(gray).pixels, upscaler(gray.pixels))


def test_grayscale_shapes(upscaler, pixels):
    gray = pixels[..., 0]
    assert upscaler(gray).shape == (68, 52)
    assert upscaler(gray[..., None]).shape == (68, 52, 1)
    image = upscaler(Image.fromarray(gray))
    assert (image.mode, image.size) == ("L", (52, 68))


def test_grayscale_is_the_luma_that_files_get(upscaler, pixels):
    gray = pixels[..., 0]
    colour = upscaler(np.repeat(gray[..., None], 3, axis=2))
    luma = colour @ np.array([0.299, 0.587, 0.114])
    # Here of rounded levels, and there rounded itself.
    assert np.abs(upscaler(gray) - luma).max() <= 1.01


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (2, 1, 3)])
def test_smallest_images(upscaler, shape):
    result = upscaler(np.full(shape, 128, np.uint8), steps=2)
    assert result.shape == (4 * shape[0], 4 * shape[1], 3)


def test_flat_image_stays_flat(upscaler):
    result = upscaler(np.full((16, 16, 3), 90, np.uint8)).astype(int)
    assert np.abs(result - 90).max() <= 3


def test_seed_decides_the_detail_of_several_steps(upscaler, pixels):
    one, again = (upscaler(pixels, steps=3, seed=1) for _ in range(2))
    other = upscaler(pixels, steps=3, seed=2)
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)


def test_whole_numbers_of_numpy(upscaler, pixels):
    whole = upscaler(pixels, steps=2, seed=3)
    numpys = upscaler(pixels, steps=np.int32(2), seed=np.int64(3))
    np.testing.assert_array_equal(whole, numpys)


@pytest.mark.parametrize("amount", [0, -1, np.inf, np.nan])
def test_amounts_of_memory_that_are_none(upscaler, amount):
    with pytest.raises(UpscaleError, match="max_memory"):
        Upscaler(upscaler.model, max_memory=amount)


def test_one_step_owes_nothing_to_the_seed(upscaler, pixels):
    np.testing.assert_array_equal(
        upscaler(pixels, steps=1, seed=1), upscaler(pixels, steps=1, seed=2)
    )


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), {}, "uint8"),
        (np.zeros((4, 4, 5), np.uint8), {}, "image must be"),
        (np.zeros((0, 4, 3), np.uint8), {}, "not empty"),
        (Image.new("F", (4, 4)), {}, "mode F"),
        (np.zeros((4, 4, 3), np.uint8), {"steps": 0}, "steps"),
        (np.zeros((4, 4, 3), np.uint8), {"steps": 1.5}, "steps"),
        (np.zeros((4, 4, 3), np.uint8), {"steps": True}, "steps"),
        (np.zeros((4, 4, 3), np.uint8), {"steps": 1001}, "steps"),
        (np.zeros((4, 4, 3), np.uint8), {"guidance_scale": 1e30}, "guidance_scale"),
        (np.zeros((4, 4, 3), np.uint8), {"guidance_scale": np.nan}, "guidance_scale"),
        (np.zeros((4, 4, 3), np.uint8), {"seed": -1}, "seed"),
    ],
)
def test_unusable_arguments(upscaler, image, settings, message):
    with pytest.raises(UpscaleError, match=message):
        upscaler(image, **settings)


def test_output_that_is_not_finite_is_an_error(pixels):
    upscaler = Upscaler.from_pretrained("nano")
    upscaler.model.experts[0]["head"]["bias"][0] = np.nan
    with pytest.raises(UpscaleError, match="not finite"):
        Upscaler(upscaler.model)(pixels)


def test_bfloat16_is_near(upscaler, pixels):
    half = Upscaler.from_pretrained("nano", dtype="bfloat16")
    difference = half(pixels, steps=2).astype(int) - upscaler(pixels, steps=2)
    # Nano's corrections are some 20 levels, of 8 bits in bfloat16; and it was used.
    assert 0 < np.abs(difference).max() <= 4
    with pytest.raises(UpscaleError, match="'float16' must be float32 or bfloat16"):
        Upscaler(upscaler.model, dtype="float16")


@pytest.fixture(scope="module")
def slider(upscaler):
    """nano at one end of a slider, and with half of its head at the other."""
    experts = upscaler.model.experts
    means = jax.tree.map(np.array, experts)
    means[0]["head"] = jax.tree.map(lambda x: x / 2, means[0]["head"])
    model = dataclasses.replace(
        upscaler.model, mean_experts=means, default_fidelity=0.25
    )
    return Upscaler(model)


def test_fidelity_moves_between_the_ends(slider, pixels):
    def run(fidelity):
        return slider(pixels, fidelity=fidelity).astype(int)

    ends = run(0.0), run(1.0)
    assert (ends[0] != ends[1]).any()
    # The head is linear, so here the pixels are interpolated as the weights are; but
    # not where an end is cut off at black or white.
    inside = np.all([(end > 0) & (end < 255) for end in ends], axis=0)
    assert inside.mean() > 0.5
    assert np.abs(run(0.5) - (ends[0] + ends[1]) / 2)[inside].max() <= 1
    np.testing.assert_array_equal(slider(pixels), run(0.25))
    own = Upscaler(dataclasses.replace(slider.model, mean_experts=None))
    np.testing.assert_array_equal(own(pixels), ends[1])


def test_fidelity_is_checked(slider, pixels):
    with pytest.raises(UpscaleError, match="fidelity must be a number from 0 to 1"):
        slider(pixels, fidelity=2.0)
    without = Upscaler(dataclasses.replace(slider.model, mean_experts=None))
    with pytest.raises(UpscaleError, match="no fidelity slider"):
        without(pixels, fidelity=0.5)
