import io

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.data import decoding
from tests.data.noise_photos import cut, noise, save


def _images():
    """name: (image, options of save, expected pixels)."""
    rgb = noise(0)
    gray = rgb[..., 0]
    gray16 = (np.arange(600, dtype=np.uint32).reshape(20, 30) * 109).astype(np.uint16)
    alpha = np.dstack([rgb, np.zeros((20, 30), np.uint8)])
    palette = Image.fromarray(rgb).quantize(16)
    bits = Image.fromarray(rgb).convert("1")

    def repeated(x):
        return np.repeat(np.asarray(x)[..., None], 3, axis=2)

    rounded = repeated(np.rint(gray16 / 257).astype(np.uint8))
    transparency = {"transparency": bytes(range(16))}
    return {
        "rgb.png": (Image.fromarray(rgb), {}, rgb),
        "gray.png": (Image.fromarray(gray), {}, repeated(gray)),
        "gray16.png": (Image.fromarray(gray16), {}, rounded),
        "gray16.tiff": (Image.fromarray(gray16), {}, rounded),
        # Alpha is ignored, though every pixel is fully transparent.
        "alpha.png": (Image.fromarray(alpha), {}, rgb),
        "palette.png": (palette, transparency, np.asarray(palette.convert("RGB"))),
        "bits.png": (bits, {}, repeated(np.where(np.asarray(bits), 255, 0))),
    }


@pytest.mark.parametrize("name", _images())
def test_pixel_types_become_rgb(tmp_path, name):
    image, options, expected = _images()[name]
    image.save(tmp_path / name, **options)
    decoded = decoding.decode_rgb((tmp_path / name).read_bytes())
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)
    assert decoding.read_size(tmp_path / name) == (30, 20)


def test_pixels_without_a_range_are_refused(tmp_path):
    path = tmp_path / "float.tiff"
    Image.fromarray(noise(0).astype(np.float32)[..., 0]).save(path)
    with pytest.raises(ValueError, match="floating-point"):
        decoding.decode_rgb(path.read_bytes())
    with pytest.raises(ValueError, match="floating-point"):
        decoding.read_size(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(suffix, {})
    Image.fromarray(noise(0)).save(path, exif=exif, **options)
    # What the EXIF standard says is to be done to see the picture upright.
    upright = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda x: np.rot90(x, 1),
    }[orientation](noise(0))
    decoded = decoding.decode_rgb(path.read_bytes())
    assert decoding.read_size(path) == decoded.shape[1::-1]
    if suffix == "jpg":
        # Lossy: the right one of the eight is the only one that resembles it.
        assert decoded.shape == upright.shape
        assert np.corrcoef(decoded.ravel(), upright.ravel())[0, 1] > 0.5
    else:
        np.testing.assert_array_equal(decoded, upright)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_headers_are_read_without_the_pixels(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(path)
    cut(path)
    assert decoding.read_size(path) == (30, 20)
    with pytest.raises((OSError, SyntaxError, ValueError)):
        decoding.decode_rgb(path.read_bytes())


def test_noise_survives_png():
    # Other tests compare with noise: PNG must be lossless for that.
    stream = io.BytesIO()
    Image.fromarray(noise(5)).save(stream, "PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(stream)), noise(5))
