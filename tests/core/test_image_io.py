"""Image files: what goes in comes out, and what cannot is refused in one line."""

import errno
import os
import pickle
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest

from linearsr_jax.core import image_io
from linearsr_jax.core.image_formats import FORMATS, IMAGE_SUFFIXES, format_of
from linearsr_jax.core.image_io import (
    LENIENT,
    STRICT,
    ImageError,
    decode_image,
    find_images,
    read_comment,
    read_image,
    read_size,
    write_image,
)
from linearsr_jax.core.images import Image
from tests.mutations import TIMES


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
        read_image(path, refuse=STRICT)
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
        pixels = pixels[..., :1]
    write_image(path, Image(pixels))
    image = read_image(path)
    assert image.depth == 8
    # WebP has no one-channel form: grayscale comes back as RGB.
    is_webp = suffix == ".webp"
    assert image.pixels.shape[2] == (3 if is_webp else pixels.shape[2])
    difference = np.abs(image.rgb.astype(int) - pixels)
    if is_webp:
        assert difference.mean() < 4
    elif suffix == ".jxl":
        assert difference.mean() < 3
    elif format_of(path).quality is not None:
        assert difference.max() <= 8
    else:
        assert difference.max() == 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_keywords_are_in_the_exif(tmp_path, suffix):
    """Read by Pillow; 0x9C9E is XPKeywords of Windows' EXIF."""
    path = tmp_path / f"a{suffix}"
    write_image(path, Image(smooth_image()), keywords=["rose", "café"])
    with PIL.Image.open(path) as image:
        found = image.getexif().get(0x9C9E)
    if suffix == ".bmp":
        assert found is None
    else:
        assert bytes(found).decode("utf-16-le").rstrip("\0") == "rose;café"
    found = read_image(path).pixels.astype(int)
    assert np.abs(found - smooth_image()).mean() < 4


def test_jpeg_is_not_subsampled(tmp_path):
    path = tmp_path / "out.jpg"
    write_image(path, Image(smooth_image()))
    with PIL.Image.open(path) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_written_with_the_usual_permissions(tmp_path):
    path = tmp_path / "out.png"
    write_image(path, Image(smooth_image()))
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    path = tmp_path / "turned.png"
    stored = smooth_image()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(stored).save(path, exif=exif)
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
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)],
)
def test_colour_modes(tmp_path, mode, channels):
    path = tmp_path / "in.tif" if mode == "CMYK" else tmp_path / "in.png"
    # Black and white survive each of these modes.
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[1:3, 2:6] = 255
    PIL.Image.fromarray(pixels).convert(mode).save(path)
    image = read_image(path)
    assert image.pixels.shape[2] == channels
    assert image.alpha is None
    np.testing.assert_array_equal(image.rgb, pixels)


def test_grayscale_keeps_its_levels(tmp_path):
    path = tmp_path / "in.png"
    gray = np.arange(256, dtype=np.uint8).reshape(8, 32)
    PIL.Image.fromarray(gray).save(path)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, gray[..., None])
    write_image(tmp_path / "out.png", image)
    with PIL.Image.open(tmp_path / "out.png") as out:
        assert out.mode == "L"
        np.testing.assert_array_equal(np.asarray(out), gray)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB key", "P key"])
def test_transparent_pixels_are_refused(tmp_path, mode):
    path = tmp_path / "in.png"
    image = PIL.Image.fromarray(smooth_image())
    if mode == "RGB key":
        image.save(path, transparency=(0, 0, 200))
    elif mode == "P key":
        image.quantize(8).save(path, transparency=bytes([255, 100]))
    else:
        image = image.convert(mode)
        image.putalpha(PIL.Image.new("L", image.size, 254))
        image.save(path)
    assert "flatten" in refusal(path)


@pytest.mark.parametrize("depth", ["gray", "colour png", "colour tiff"])
def test_more_than_8_bits_is_refused(tmp_path, depth):
    path = tmp_path / "in.png"
    if depth == "gray":
        PIL.Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(path)
    elif depth == "colour png":
        path.write_bytes(png(2, 1, 16, 2, b"\0" + bytes(12)))
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
    frames = [PIL.Image.fromarray(smooth_image() // k) for k in (1, 2, 3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "3 frames" in refusal(path)


def test_a_phone_jpeg_gives_its_first_picture(tmp_path):
    path = tmp_path / "in.jpg"
    pixels = smooth_image()
    first, second = PIL.Image.fromarray(pixels), PIL.Image.fromarray(255 - pixels)
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


@pytest.mark.parametrize("read", [read_image, read_size, read_comment])
def test_no_file_is_opened_that_may_never_end(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png: is a pipe or device"):
        read(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is a folder"):
        read(tmp_path)


def test_formats_that_start_programs_are_not_opened(tmp_path):
    path = tmp_path / "in.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    assert "not an image" in refusal(path)


@pytest.mark.parametrize("suffix", sorted({f.suffixes[0] for f in FORMATS}))
def test_damage_is_an_image_error_or_nothing(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    write_image(whole, Image(smooth_image(40, 60)))
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) * 2 // 3])
    refusal(cut)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings(record=True) as leaked:
        for _ in range(40 * TIMES):
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
    before = PIL.Image.MAX_IMAGE_PIXELS
    assert "80 million pixels" in refusal(path)
    assert before == PIL.Image.MAX_IMAGE_PIXELS


def test_existing_output_is_kept(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"precious")
    with pytest.raises(ImageError, match="exists already"):
        write_image(path, Image(smooth_image()))
    assert path.read_bytes() == b"precious"
    write_image(path, Image(smooth_image()), overwrite=True)
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
        write_image(path, Image(smooth_image()), overwrite=True)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_outputs_that_cannot_be(tmp_path, monkeypatch):
    image = Image(smooth_image())
    with pytest.raises(ImageError, match=r"out\.gif.*use one of \.png"):
        write_image(tmp_path / "out.gif", image)
    with pytest.raises(ImageError, match="without suffix"):
        write_image(tmp_path / "out", image)
    with pytest.raises(ImageError, match="folder exists"):
        write_image(tmp_path / "missing" / "out.png", image)
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="folder exists"):
        write_image(tmp_path / "file" / "out.png", image)
    with pytest.raises(ImageError, match="16383"):
        wide = Image(np.zeros((1, 16384, 3), np.uint8))
        write_image(tmp_path / "out.webp", wide)
    clear = Image(image.pixels, image.pixels[..., 0])
    for suffix in ("jpg", "bmp"):
        with pytest.raises(ImageError, match="cannot hold transparent pixels"):
            write_image(tmp_path / f"out.{suffix}", clear)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_find_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "._a.jpg", "sub/c.webp", ".x/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    # Training and tagging name what cannot be read; it must be listed for that.
    (tmp_path / "sub" / "lost.png").symlink_to(tmp_path / "nowhere")
    assert find_images(tmp_path) == [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert find_images(tmp_path, recursive=True) == [
        tmp_path / "a.JPG",
        tmp_path / "b.png",
        tmp_path / "sub" / "c.webp",
        tmp_path / "sub" / "lost.png",
    ]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(ImageError, match="no images in this folder"):
        find_images(tmp_path / "folder.png")
    with pytest.raises(ImageError, match="no such file or folder"):
        find_images(tmp_path / "missing")


def test_the_limit_stays_below_pillows_warning():
    assert PIL.Image.MAX_IMAGE_PIXELS > image_io.MAX_PIXELS


def lenient_cases():
    """name: (Pillow image, options of save, expected pixels, expected alpha)."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    gray16 = (np.arange(600, dtype=np.uint32).reshape(20, 30) * 109).astype(np.uint16)
    alpha = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    palette = PIL.Image.fromarray(rgb).quantize(16)
    frames = [PIL.Image.fromarray(rgb[..., 0] // k) for k in (1, 2)]

    def case(pixels, expected, alpha=None, **options):
        return PIL.Image.fromarray(pixels), options, expected, alpha

    return {
        "gray16.png": case(gray16, gray16[..., None]),
        "gray16.tiff": case(gray16, gray16[..., None]),
        "alpha.png": case(np.dstack([rgb, alpha]), rgb, alpha),
        "alpha.webp": case(
            np.dstack([rgb, alpha]), rgb, alpha, lossless=True, exact=True
        ),
        "gray alpha.png": case(np.dstack([rgb[..., 0], alpha]), rgb[..., :1], alpha),
        "palette.png": (
            palette,
            {"transparency": bytes(range(16))},
            np.asarray(palette.convert("RGB")),
            np.asarray(palette),
        ),
        "frames.tif": (
            frames[0],
            {"save_all": True, "append_images": frames[1:]},
            rgb[..., :1],
            None,
        ),
    }


@pytest.mark.parametrize("name", lenient_cases())
def test_lenient_reading_takes_what_strict_refuses(tmp_path, name):
    path = tmp_path / name
    image, options, pixels, alpha = lenient_cases()[name]
    image.save(path, **options)
    refusal(path)
    found = read_image(path, refuse=LENIENT)
    assert found.depth == 8 * pixels.itemsize
    np.testing.assert_array_equal(found.pixels, pixels)
    if alpha is None:
        assert found.alpha is None
    else:
        np.testing.assert_array_equal(found.alpha, alpha)
    decoded = decode_image(path.read_bytes(), name, refuse=LENIENT)
    np.testing.assert_array_equal(decoded.pixels, pixels)
    assert read_size(path) == (30, 20)


def test_one_trait_alone_is_refused(tmp_path):
    path = tmp_path / "in.png"
    PIL.Image.fromarray(np.zeros((4, 5, 4), np.uint8)).save(path)
    assert read_image(path, refuse={"depth"}).alpha is not None
    with pytest.raises(ImageError, match="flatten"):
        read_image(path, refuse={"alpha"})


def test_floats_are_refused_by_all(tmp_path):
    path = tmp_path / "float.tiff"
    PIL.Image.fromarray(np.ones((4, 5), np.float32)).save(path)
    for read in (read_size, lambda path: read_image(path, refuse=LENIENT)):
        with pytest.raises(ImageError, match="floating-point"):
            read(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_image(tmp_path, suffix, orientation):
    path = tmp_path / f"in.{suffix}"
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(smooth_image()).save(path, exif=exif)
    assert read_size(path) == read_image(path).pixels.shape[1::-1]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_size_needs_no_pixels(tmp_path, suffix):
    path = tmp_path / f"in.{suffix}"
    PIL.Image.fromarray(smooth_image(120, 200)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert read_size(path) == (200, 120)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(path.read_bytes(), path, refuse=LENIENT)


def test_errors_can_be_sent_between_processes(tmp_path):
    error = pickle.loads(pickle.dumps(ImageError("a.png", "is a folder")))
    assert (str(error), error.reason) == ("a.png: is a folder", "is a folder")


def test_running_out_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "in.png"
    write_image(path, Image(smooth_image()))

    def run_out(image):
        raise MemoryError

    monkeypatch.setattr(image_io, "convert_image", run_out)
    with pytest.raises(MemoryError):
        read_image(path)


def test_arrays_and_pillow_images_are_written_too(tmp_path):
    """As the upscaler returns them."""
    path = tmp_path / "out.png"
    pixels = smooth_image()
    for image in (pixels, PIL.Image.fromarray(pixels), Image(pixels)):
        write_image(path, image, overwrite=True)
        np.testing.assert_array_equal(read_image(path).pixels, pixels)
    deep = pixels.astype(">u2") * 257  # big-endian
    write_image(path, deep, overwrite=True)
    np.testing.assert_array_equal(read_image(path).pixels, deep)
    for wrong in (pixels.astype(float), pixels[None], "photo.jpg"):
        with pytest.raises(ImageError, match=r"out\.png: the image must"):
            write_image(path, wrong, overwrite=True)
