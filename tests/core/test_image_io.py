"""Image files: what goes in comes out, and what cannot is refused in one line."""

import errno
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.core import image_io
from linearsr_jax.core.image_io import (
    IMAGE_SUFFIXES,
    ImageError,
    find_images,
    read_image,
    write_image,
)


def smooth_image(height=12, width=20):
    """Colours that a lossy codec keeps to a few levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 9, y * 14, 200 - x * 5], -1).astype(np.uint8)


def png(width, height, bit_depth, colour_type, rows):
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def refusal(path):
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_round_trip(tmp_path, suffix, mode):
    path = tmp_path / f"out{suffix}"
    pixels = smooth_image()
    if mode == "L":
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    write_image(path, pixels, mode)
    image = read_image(path)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == pixels.shape
    # WebP has no one-channel form: grayscale comes back as RGB.
    is_webp = suffix == ".webp"
    assert image.mode == ("RGB" if is_webp else mode)
    difference = np.abs(image.pixels.astype(int) - pixels)
    if suffix in (".jpg", ".jpeg"):
        assert difference.max() <= 8
    elif is_webp:
        assert difference.mean() < 4
    else:
        assert difference.max() == 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_keywords_are_in_the_exif(tmp_path, suffix):
    """Read by Pillow; 0x9C9E is XPKeywords of Windows' EXIF."""
    path = tmp_path / f"a{suffix}"
    write_image(path, smooth_image(), "RGB", keywords=["rose", "café"])
    with Image.open(path) as image:
        found = image.getexif().get(0x9C9E)
    if suffix == ".bmp":
        assert found is None
    else:
        assert bytes(found).decode("utf-16-le").rstrip("\0") == "rose;café"
    np.testing.assert_allclose(read_image(path).pixels, smooth_image(), atol=12)


def test_jpeg_is_not_subsampled(tmp_path):
    path = tmp_path / "out.jpg"
    write_image(path, smooth_image(), "RGB")
    with Image.open(path) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_written_with_the_usual_permissions(tmp_path):
    path = tmp_path / "out.png"
    write_image(path, smooth_image(), "RGB")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    path = tmp_path / "turned.png"
    stored = smooth_image()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    # The EXIF standard: where row 0 and column 0 of the stored image belong.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored.swapaxes(0, 1)[:, ::-1],
        7: stored.swapaxes(0, 1)[::-1, ::-1],
        8: stored.swapaxes(0, 1)[::-1],
    }[orientation]
    np.testing.assert_array_equal(read_image(path).pixels, upright)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "L"),
        ("P", "RGB"),
        ("RGBA", "RGB"),
        ("CMYK", "RGB"),
    ],
)
def test_colour_modes(tmp_path, mode, expected):
    path = tmp_path / "in.tif" if mode == "CMYK" else tmp_path / "in.png"
    # Black and white survive each of these modes.
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[1:3, 2:6] = 255
    Image.fromarray(pixels).convert(mode).save(path)
    image = read_image(path)
    assert image.mode == expected
    np.testing.assert_array_equal(image.pixels, pixels)


def test_grayscale_keeps_its_levels(tmp_path):
    path = tmp_path / "in.png"
    gray = np.arange(256, dtype=np.uint8).reshape(8, 32)
    Image.fromarray(gray).save(path)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, np.stack([gray] * 3, -1))
    write_image(tmp_path / "out.png", image.pixels, image.mode)
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == "L"
        np.testing.assert_array_equal(np.asarray(out), gray)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB key", "P key"])
def test_transparent_pixels_are_refused(tmp_path, mode):
    path = tmp_path / "in.png"
    image = Image.fromarray(smooth_image())
    if mode == "RGB key":
        image.save(path, transparency=(0, 0, 200))
    elif mode == "P key":
        image.quantize(8).save(path, transparency=bytes([255, 100]))
    else:
        image = image.convert(mode)
        image.putalpha(Image.new("L", image.size, 254))
        image.save(path)
    assert "flatten" in refusal(path)


@pytest.mark.parametrize("depth", ["gray", "colour png", "colour tiff", "float"])
def test_more_than_8_bits_is_refused(tmp_path, depth):
    path = tmp_path / "in.png"
    if depth == "gray":
        Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(path)
    elif depth == "colour png":
        path.write_bytes(png(2, 1, 16, 2, b"\0" + bytes(12)))
    elif depth == "float":
        path = tmp_path / "in.tif"
        Image.fromarray(np.ones((4, 5), np.float32)).save(path)
    else:
        # Little-endian TIFF of one pixel: tags width to planar configuration.
        path = tmp_path / "in.tif"
        tags = [
            (256, 3, 1, 1),
            (257, 3, 1, 1),
            (258, 3, 3, 8 + 2 + 12 * 9 + 4),
            (259, 3, 1, 1),
            (262, 3, 1, 2),
            (273, 4, 1, 8 + 2 + 12 * 9 + 4 + 6),
            (277, 3, 1, 3),
            (278, 3, 1, 1),
            (279, 4, 1, 6),
        ]
        path.write_bytes(
            struct.pack("<2sHIH", b"II", 42, 8, len(tags))
            + b"".join(struct.pack("<HHII", *tag) for tag in tags)
            + struct.pack("<I3H", 0, 16, 16, 16)
            + bytes(6)
        )
    assert "8 bits" in refusal(path)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_several_frames_are_refused(tmp_path, suffix):
    path = tmp_path / f"in{suffix}"
    frames = [Image.fromarray(smooth_image() // k) for k in (1, 2, 3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "3 frames" in refusal(path)


def test_a_phone_jpeg_gives_its_first_picture(tmp_path):
    path = tmp_path / "in.jpg"
    pixels = smooth_image()
    first, second = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    first.save(path, format="MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(read_image(path).pixels.astype(int) - pixels).mean() < 6


def test_what_is_not_an_image(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("hello")
    assert "not an image" in refusal(text)
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "empty" in refusal(empty)
    assert "no such file" in refusal(tmp_path / "missing.png")
    assert "folder" in refusal(tmp_path)


def test_formats_that_start_programs_are_not_opened(tmp_path):
    path = tmp_path / "in.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    assert "not an image" in refusal(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_damage_is_an_image_error_or_nothing(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    write_image(whole, smooth_image(40, 60), "RGB")
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) * 2 // 3])
    refusal(cut)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings(record=True) as leaked:
        for _ in range(40):
            damaged = bytearray(data)
            for position in rng.integers(0, len(data), 8):
                damaged[position] ^= int(rng.integers(1, 256))
            cut.write_bytes(damaged)
            try:  # any other exception fails this test
                read_image(cut)
            except ImageError as error:
                assert "\n" not in str(error)
    assert not leaked


@pytest.mark.parametrize("side", [9000, 12000, 60000])
def test_bombs_are_refused_unread(tmp_path, side):
    # Above our limit; above Pillow's warning; above Pillow's error.
    path = tmp_path / "in.png"
    path.write_bytes(png(side, side, 8, 2, b""))
    before = Image.MAX_IMAGE_PIXELS
    assert "80 million pixels" in refusal(path)
    assert before == Image.MAX_IMAGE_PIXELS


def test_existing_output_is_kept(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"precious")
    with pytest.raises(ImageError, match="exists already"):
        write_image(path, smooth_image(), "RGB")
    assert path.read_bytes() == b"precious"
    write_image(path, smooth_image(), "RGB", overwrite=True)
    np.testing.assert_array_equal(read_image(path).pixels, smooth_image())


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt])
def test_a_failed_write_leaves_no_trace(tmp_path, monkeypatch, failure):
    path = tmp_path / "out.png"
    path.write_bytes(b"precious")

    def fail(descriptor):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    wanted = ImageError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        write_image(path, smooth_image(), "RGB", overwrite=True)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_outputs_that_cannot_be(tmp_path, monkeypatch):
    pixels = smooth_image()
    with pytest.raises(ImageError, match=r"out\.gif.*use one of \.png"):
        write_image(tmp_path / "out.gif", pixels, "RGB")
    with pytest.raises(ImageError, match="without suffix"):
        write_image(tmp_path / "out", pixels, "RGB")
    with pytest.raises(ImageError, match="folder exists"):
        write_image(tmp_path / "missing" / "out.png", pixels, "RGB")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="folder exists"):
        write_image(tmp_path / "file" / "out.png", pixels, "RGB")
    with pytest.raises(ImageError, match="16383"):
        write_image(tmp_path / "out.webp", np.zeros((1, 16384, 3), np.uint8), "RGB")
    with pytest.raises(ValueError, match="uint8"):
        write_image(tmp_path / "out.png", pixels / 255, "RGB")
    with pytest.raises(ValueError, match="mode"):
        write_image(tmp_path / "out.png", pixels, "RGBA")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_find_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "._a.jpg", "sub/c.webp", ".x/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert find_images(tmp_path, recursive=True) == [
        tmp_path / "a.JPG",
        tmp_path / "b.png",
        tmp_path / "sub" / "c.webp",
    ]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(ImageError, match="no images in this folder"):
        find_images(tmp_path / "folder.png")
    with pytest.raises(ImageError, match="no such file or folder"):
        find_images(tmp_path / "missing")


def test_the_limit_stays_below_pillows_warning():
    assert Image.MAX_IMAGE_PIXELS > image_io.MAX_PIXELS
