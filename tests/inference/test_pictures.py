"""Depth, alpha, profiles and orientation through the bundled model."""

import io
import itertools

import numpy as np
import PIL.Image
import pytest
from PIL import ExifTags, ImageCms

from linearsr_jax import Upscaler
from linearsr_jax.core.images import Image
from linearsr_jax.inference.transparency import fill_transparent, limit_alpha

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler.from_pretrained("nano")


def ramp16(height=12, width=24):
    line = np.linspace(0, 65535, height * width).reshape(width, height).T
    return np.repeat(line[..., None], 3, axis=2).astype(np.uint16)


def test_16_bits_stay_16(upscaler):
    result = upscaler(ramp16())
    assert (result.dtype, result.shape) == (np.uint16, (48, 96, 3))
    # The input has 288 levels.
    assert len(np.unique(result[..., 0])) > 512
    eight = upscaler(Image(ramp16()).rgb)
    assert np.abs(result / 257 - eight).max() < 3


def test_levels_between_8_bits_count(upscaler):
    flat = np.full((8, 8, 1), 30000, np.uint16)
    results = [upscaler(flat + offset).astype(int) for offset in (0, 60, 120)]
    # A network's answer to a constant moves with it, by about as much.
    steps = [np.mean(b - a) for a, b in itertools.pairwise(results)]
    np.testing.assert_allclose(steps, 60, rtol=0.2)


def test_16_bit_gray_of_pillow(upscaler):
    gray = ramp16()[..., 0]
    result = upscaler(PIL.Image.fromarray(gray))
    assert (result.mode, result.size) == ("I;16", (96, 48))
    np.testing.assert_array_equal(np.asarray(result), upscaler(gray))


def disc(side=24, hidden=(0, 255, 0)):
    """A red disc with a soft edge, and another colour where nothing is seen."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip(side / 3 - np.hypot(x, y), 0, 1)
    pixels = np.full((side, side, 3), (200, 40, 30), np.uint8)
    pixels[alpha == 0] = hidden
    return pixels, np.rint(255 * alpha).astype(np.uint8)


def test_hidden_colours_do_not_show(upscaler):
    pixels, alpha = disc()
    result = upscaler(np.dstack([pixels, alpha]))
    assert result.shape == (96, 96, 4)
    seen = result[..., 3] > 8
    assert 0.2 < seen.mean() < 0.5
    assert np.abs(result[seen, :3].astype(int) - (200, 40, 30)).max() <= 12
    # What is hidden is of no account at all.
    other, _ = disc(hidden=(0, 0, 255))
    np.testing.assert_array_equal(upscaler(np.dstack([other, alpha])), result)


def test_compositing_before_or_after_is_nearly_the_same(upscaler):
    pixels, alpha = disc()
    result = upscaler(PIL.Image.fromarray(np.dstack([pixels, alpha])))
    assert result.mode == "RGBA"

    def on_white(image):
        white = PIL.Image.new("RGBA", image.size, "white")
        return np.asarray(PIL.Image.alpha_composite(white, image).convert("RGB"))

    before = upscaler(on_white(PIL.Image.fromarray(np.dstack([pixels, alpha]))))
    difference = before.astype(int) - on_white(result)
    assert np.abs(difference).mean() < 3


def test_opaque_and_empty_parts_stay_exactly_so(upscaler):
    pixels, alpha = disc()
    result = upscaler(np.dstack([pixels, alpha]))[..., 3]
    middle, corner = slice(44, 52), slice(0, 8)
    assert np.all(result[middle, middle] == 255)
    assert np.all(result[corner, corner] == 0)
    assert len(np.unique(result)) > 20


def test_filling_keeps_what_is_opaque():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    alpha = np.where(rng.random((9, 13)) < 0.5, 255, 0).astype(np.uint8)
    filled = fill_transparent(pixels, alpha)
    np.testing.assert_array_equal(filled[alpha == 255], pixels[alpha == 255])
    nothing = np.zeros_like(alpha)
    np.testing.assert_array_equal(fill_transparent(pixels, nothing), pixels)
    # One visible pixel decides the colour of all.
    one = nothing.copy()
    one[4, 6] = 3
    assert np.all(np.abs(fill_transparent(pixels, one) - pixels[4, 6].astype(int)) <= 1)


def test_limits_are_those_of_the_input_around():
    alpha_lr = np.array([[0, 0, 0, 255]], np.uint8)
    alpha = np.full((4, 16), 100, np.uint8)
    limited = limit_alpha(alpha, alpha_lr)
    np.testing.assert_array_equal(limited[0], [0] * 8 + [100] * 8)


def test_a_pillow_image_is_turned_upright_and_keeps_what_it_carries(upscaler):
    pixels = np.zeros((6, 10, 3), np.uint8)
    pixels[:, :5] = (250, 10, 10)
    exif = PIL.Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "somebody"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 10
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(
        file, "PNG", exif=exif, icc_profile=SRGB, dpi=(300, 300)
    )
    result = upscaler(PIL.Image.open(file))
    assert result.size == (24, 40)
    # A quarter turn to the right brings the left half to the top.
    top, bottom = np.asarray(result)[4:12, 4:-4], np.asarray(result)[-12:-4, 4:-4]
    assert top[..., 0].min() > 200 > 50 > bottom.max()
    again = io.BytesIO()
    result.save(again, "PNG", exif=result.info["exif"])
    found = PIL.Image.open(again)
    assert found.getexif()[ExifTags.Base.Artist] == "somebody"
    assert found.getexif().get(ExifTags.Base.Orientation, 1) == 1
    exposure = found.getexif().get_ifd(ExifTags.IFD.Exif)
    assert exposure[ExifTags.Base.ExifImageWidth] == 24
    assert found.info["icc_profile"] == SRGB
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.02)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_pillow(upscaler, mode):
    image = PIL.Image.fromarray(ramp16(4, 5).astype(np.uint8)).convert(mode)
    result = upscaler(image)
    assert result.size == (20, 16)
    assert result.mode == ("L" if mode in ("1", "L", "LA") else "RGB")


def p3_profile():
    """Display P3: the profile of sRGB with the primaries of SMPTE RP 431-2, on D50."""
    profile = bytearray(SRGB)
    columns = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    for i in range(int.from_bytes(profile[128:132])):
        name, start = profile[132 + 12 * i :][:4], profile[136 + 12 * i :][:4]
        if (column := columns.get(bytes(name))) is not None:
            numbers = np.rint(np.multiply(column, 65536)).astype(">i4").tobytes()
            first = int.from_bytes(start) + 8
            profile[first : first + 12] = numbers
    return bytes(profile)


def lab(image):
    """The middle of an image as its profile shows it, in 8-bit L*a*b*."""
    shown = ImageCms.profileToProfile(
        PIL.Image.fromarray(image.pixels),
        ImageCms.ImageCmsProfile(io.BytesIO(image.icc)),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    middle = np.asarray(shown)[len(image.pixels) // 2, len(image.pixels) // 2]
    return middle.astype(float) * (100 / 255, 1, 1)


def test_colours_are_the_same_under_a_profile(upscaler):
    """Flat patches, shown through Display P3 and compared in CIELAB."""
    icc = p3_profile()
    assert icc != SRGB
    colors = [(230, 40, 40), (40, 230, 40), (60, 60, 220), (128, 128, 128)]
    for color in colors:
        image = Image(np.full((8, 8, 3), color, np.uint8), icc=icc)
        result = upscaler(image)
        assert result.icc == icc
        assert np.linalg.norm(lab(image) - lab(result)) < 2.5
