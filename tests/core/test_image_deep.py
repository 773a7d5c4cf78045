"""More than 8 bits per channel, against files by and for other libraries."""

import base64
import io

import numpy as np
import PIL.Image
import png
import pytest
import tifffile

from linearsr_jax.core.image_io import (
    LENIENT,
    STRICT,
    ImageError,
    decode_image,
    read_image,
    write_image,
)
from linearsr_jax.core.image_jxl import bits_per_sample
from linearsr_jax.core.images import Image

DEEP = np.random.default_rng(0).integers(0, 65536, (20, 30, 4), dtype=np.uint16)
RGB, ALPHA = np.ascontiguousarray(DEEP[..., :3]), DEEP[..., 3]


def read_with_pypng(path):
    width, height, rows, info = png.Reader(bytes=path.read_bytes()).read()
    assert info["bitdepth"] == 16
    return np.vstack(list(rows)).reshape(height, width, -1)


def read_with_tifffile(path):
    pixels = tifffile.imread(path)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def write_with_pypng(path, pixels):
    channels = pixels.shape[2]
    writer = png.Writer(
        *pixels.shape[1::-1],
        bitdepth=16,
        greyscale=channels < 3,
        alpha=channels % 2 == 0,
    )
    with path.open("wb") as file:
        writer.write(file, pixels.reshape(len(pixels), -1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_written_and_read(tmp_path, suffix, channels):
    path = tmp_path / f"deep{suffix}"
    pixels = RGB if channels > 2 else RGB[..., :1]
    alpha = ALPHA if channels % 2 == 0 else None
    write_image(path, Image(pixels, alpha))
    found = (read_with_pypng if suffix == ".png" else read_with_tifffile)(path)
    gray_alpha = found.shape[2] == 4 and channels == 2
    expected = np.dstack([pixels] * (3 if gray_alpha else 1))
    np.testing.assert_array_equal(found[..., : expected.shape[2]], expected)
    image = read_image(path)
    np.testing.assert_array_equal(image.rgb, Image(pixels).rgb)
    if alpha is None:
        assert image.alpha is None
    else:
        np.testing.assert_array_equal(found[..., -1], alpha)
        np.testing.assert_array_equal(image.alpha, alpha)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_another_library(tmp_path, channels):
    path = tmp_path / "in.png"
    pixels = RGB if channels > 2 else RGB[..., :1]
    both = np.dstack([pixels, ALPHA]) if channels % 2 == 0 else pixels
    write_with_pypng(path, both)
    for image in (
        read_image(path),
        decode_image(path.read_bytes(), "in.png", refuse=LENIENT),
    ):
        np.testing.assert_array_equal(image.channels, both)
    with pytest.raises(ImageError, match="8 bits"):
        read_image(path, refuse=STRICT)


TIFFS = {
    "little-endian": {},
    "big-endian": {"byteorder": ">"},
    "deflate and predictor": {"compression": "zlib", "predictor": True},
    "BigTIFF": {"bigtiff": True},
    "strips": {"rowsperstrip": 3},
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_of_another_library(tmp_path, name):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", **TIFFS[name])
    np.testing.assert_array_equal(read_image(path).pixels, RGB)


def test_further_forms_of_tiff(tmp_path):
    path = tmp_path / "in.tif"
    planes = np.moveaxis(RGB, -1, 0).copy()
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(path).pixels, RGB)
    tifffile.imwrite(path, RGB[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path).pixels, 65535 - RGB[..., :1])
    # Premultiplied, as the file says: colours come straight.
    color = (RGB.astype(np.uint64) * ALPHA[..., None] // 65535).astype(np.uint16)
    both = np.dstack([color, ALPHA])
    tifffile.imwrite(path, both, photometric="rgb", extrasamples=["assocalpha"])
    image = read_image(path)
    solid = ALPHA > 30000
    assert np.abs(image.pixels[solid].astype(int) - RGB[solid]).max() <= 4
    # A channel that is not said to be alpha is none, as with 8 bits.
    tifffile.imwrite(path, DEEP, photometric="rgb", extrasamples=["unspecified"])
    assert read_image(path).alpha is None


@pytest.mark.parametrize("dtype", [np.uint32, np.int16, np.float32])
def test_other_types_are_refused(tmp_path, dtype):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, RGB.astype(dtype), photometric="rgb")
    with pytest.raises(ImageError):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation_of_deep_images(tmp_path, suffix):
    path = tmp_path / f"in{suffix}"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    if suffix == ".png":
        write_with_pypng(path, RGB)
        chunks = list(png.Reader(bytes=path.read_bytes()).chunks())
        # EXIF may stand behind the pixels.
        chunks.insert(-1, (b"eXIf", exif.tobytes()[6:]))
        with path.open("wb") as file:
            png.write_chunks(file, chunks)
    else:
        tag = [(0x0112, "H", 1, 6, True)]
        tifffile.imwrite(path, RGB, photometric="rgb", extratags=tag)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, RGB.swapaxes(0, 1)[:, ::-1])
    write_image(tmp_path / "again.png", image)
    with PIL.Image.open(tmp_path / "again.png") as again:
        assert again.getexif().get(0x0112, 1) == 1


def test_orientation_of_deep_heif(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    height, width = 48, 64
    ramp = np.broadcast_to(np.linspace(0, 65535, width)[:, None], (height, width, 3))
    data = np.ascontiguousarray(ramp).astype("<u2").tobytes()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = pillow_heif.from_bytes("RGB;16", (width, height), data)
    path = tmp_path / "in.heic"
    file.save(path, quality=90, exif=exif.tobytes())
    pixels = read_image(path).pixels
    assert (pixels.shape, pixels.dtype) == ((width, height, 3), np.uint16)
    # What grew to the right grows downwards.
    rows = pixels.mean((1, 2))
    np.testing.assert_allclose(rows, np.linspace(0, 65535, width), atol=1000)


def test_avif_holds_12_bits(tmp_path):
    y, x = np.mgrid[:64, :64]
    ramp = np.repeat(((64 * y + x) * 16)[..., None], 3, axis=2).astype(np.uint16)
    path = tmp_path / "deep.avif"
    write_image(path, Image(ramp), quality=100)
    image = read_image(path)
    assert image.depth == 16
    assert len(np.unique(image.pixels)) > 1000
    assert np.abs(image.pixels.astype(int) - ramp).max() < 400
    # Pillow reads 8 bits of it.
    with PIL.Image.open(path) as shallow:
        assert np.abs(np.asarray(shallow).astype(int) - image.rgb).max() <= 2


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_formats_of_8_bits_get_8_and_say_so(tmp_path, suffix, caplog):
    caplog.set_level("INFO")
    path = tmp_path / f"out{suffix}"
    smooth = np.repeat(np.linspace(0, 65535, 64, dtype=np.uint16)[None, :, None], 9, 0)
    write_image(path, Image(smooth))
    assert "8 bits per channel of 16" in caplog.text
    found = read_image(path).rgb.astype(int)
    assert np.abs(found - Image(smooth).rgb).mean() < 3


def test_damage_is_refused_or_black(tmp_path):
    path = tmp_path / "in.png"
    write_with_pypng(path, RGB)
    data = path.read_bytes()[:-900]
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(data, "in.png")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RGB, photometric="rgb")
    with pytest.raises(ImageError):
        decode_image(buffer.getvalue()[:2000], "in.tif")


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I"])
def test_heif_keeps_its_depth(tmp_path, monkeypatch, mode, bits):
    """Written by libheif; lossless but for the conversion to its colour space."""
    pillow_heif = pytest.importorskip("pillow_heif")
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    channels = {"RGB": [ramp] * 3, "RGBA": [ramp] * 3 + [ramp.T], "I": [ramp]}[mode]
    written = pillow_heif.from_bytes(
        f"{mode};16", (64, 64), np.squeeze(np.dstack(channels)).tobytes()
    )
    path = tmp_path / "in.heic"
    written.save(path, quality=-1, chroma=444)
    for image in (
        read_image(path),
        decode_image(path.read_bytes(), "in.heic", refuse=LENIENT),
    ):
        assert image.channels.shape[2] == len(channels)
        for found, expected in zip(
            np.moveaxis(image.channels, -1, 0), channels, strict=True
        ):
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 3 * 65535 / 2**bits
        assert len(np.unique(image.pixels)) > 2**bits / 2
        assert (image.pixels.min(), image.pixels.max()) == (0, 65535)
    with pytest.raises(ImageError, match="8 bits"):
        read_image(path, refuse=STRICT)


# A ramp of 16 bits, 5 pixels wide and 4 high, by libjxl's encoder; in a container.
DEEP_JXL = base64.b64decode(
    "AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAAJanhsbAoAAACUanhsY/8KGDD8ABQtAggE"
    "AQD0AUsYk46Dg5kEiRXakIISIkMnzk9PLM0F5wIxAQBoAA2gAfT+ZwANoAE0gN7/DKABNIAG0PufATSA"
    "BtAA2j/7Z//snz8Ikvde/tk/FwRJ7rf982DYJOf59xf8s3/2z3Xf/LN/9s/+ufCPf/bP/tk/F/7xz/7Z"
    "P/vn3VtchiAA"
)


def test_jpeg_xl_of_more_bits_is_said_to_lose_them(tmp_path, caplog):
    pytest.importorskip("pillow_jxl")
    assert bits_per_sample(DEEP_JXL) == 16
    path = tmp_path / "in.jxl"
    path.write_bytes(DEEP_JXL)
    image = read_image(path)
    assert (image.pixels.dtype, image.pixels.shape) == (np.uint8, (4, 5, 3))
    assert "more than 8 bits per channel" in caplog.text
    with pytest.raises(ImageError, match="8 bits"):
        read_image(path, refuse=STRICT)
    caplog.clear()
    read_image(path, refuse=LENIENT)
    write_image(path, Image(image.pixels), overwrite=True)
    assert bits_per_sample(path.read_bytes()) == 8
    read_image(path)
    # Gray is read whole.
    gray = PIL.Image.fromarray(DEEP[..., 0])
    gray.save(path, lossless=True)
    np.testing.assert_array_equal(read_image(path).pixels, DEEP[..., :1])
    assert not caplog.text


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 96), (300, 500), (9000, 2)])
def test_the_depth_of_any_size_of_jpeg_xl(tmp_path, size):
    pytest.importorskip("pillow_jxl")
    for mode, bits in (("RGB", 8), ("L", 8), ("I;16", 16)):
        PIL.Image.new(mode, size).save(tmp_path / "x.jxl", lossless=True, effort=1)
        assert bits_per_sample((tmp_path / "x.jxl").read_bytes()) == bits


def test_a_damaged_jpeg_xl_has_no_depth():
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(DEEP_JXL)
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(0, 256)
        assert (bits_per_sample(bytes(data[: rng.integers(0, 200)])) or 8) >= 1


def read_bytes(path):
    return read_image(path), decode_image(path.read_bytes(), path.name)


def test_tiffs_that_pillow_does_not_know(tmp_path):
    path = tmp_path / "gray_alpha.tif"
    both = np.dstack([RGB[..., 0], ALPHA])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    tags = [(274, "H", 1, 6, True), (700, "B", len(xmp), xmp, True)]
    tifffile.imwrite(
        path,
        both,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
        extratags=tags,
        compression="zlib",
    )
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(path)
    for image in read_bytes(path):
        np.testing.assert_array_equal(image.channels, np.rot90(both, -1))
        assert b'tiff:Orientation="1"' in image.xmp
    with pytest.raises(ImageError, match=r"more than 0\.0001 million pixels"):
        read_image(path, max_pixels=100)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for _ in range(2):
            file.write(both, photometric="minisblack", extrasamples=["unassalpha"])
    with pytest.raises(ImageError, match="holds 2 frames"):
        read_image(tmp_path / "pages.tif")
    for trait, message in (("depth", "more than 8 bits"), ("alpha", "transparent")):
        with pytest.raises(ImageError, match=message):
            read_image(path, refuse=frozenset({trait}))


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, "float"), (np.int16, "short"), (np.uint32, "uint")]
)
def test_pixels_of_other_types_are_named(tmp_path, dtype, kind):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, RGB.astype(dtype), photometric="rgb")
    with pytest.raises(ImageError, match=f"type {kind}; save it with 8 or 16 bits"):
        read_image(path)


def test_cmyk_of_16_bits_is_that_of_8(tmp_path):
    """Without a profile, by the formula that Pillow has for 8."""
    levels = np.random.default_rng(1).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, levels.astype(np.uint16) * 257, photometric="separated", extrasamples=[]
    )
    expected = np.asarray(PIL.Image.fromarray(levels, "CMYK").convert("RGB"))
    difference = read_image(path).rgb.astype(int) - expected
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dpi", [None, (240.0, 120.0)])
def test_no_resolution_is_invented(tmp_path, suffix, dpi):
    path = tmp_path / f"deep{suffix}"
    write_image(path, Image(RGB, dpi=dpi))
    with PIL.Image.open(path) as image:
        assert image.info.get("dpi") == (dpi and pytest.approx(dpi, rel=1e-3))
    image = read_image(path)
    assert image.dpi == (dpi and pytest.approx(dpi, rel=1e-3))
    np.testing.assert_array_equal(image.pixels, RGB)
    # Nor from a TIFF of 8 bits that says none.
    PIL.Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "8.tif")
    assert read_image(tmp_path / "8.tif").dpi is None
