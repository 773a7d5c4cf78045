"""Profiles and EXIF: from one file to the next, whatever the format."""

import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL import ExifTags, ImageCms, PngImagePlugin

from linearsr_jax.core.image_io import read_comment, read_image, write_image
from linearsr_jax.core.images import Image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PIXELS = np.zeros((12, 20, 3), np.uint8)
FORMATS = ["jpg", "png", "webp", "tif", "avif"]
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description
 tiff:Orientation="6" tiff:ImageWidth="20" exif:PixelYDimension="12">
<tiff:ImageLength>12</tiff:ImageLength><dc:title>caf\xc3\xa9 20</dc:title>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


def camera_exif():
    """EXIF of a camera held upright: 12 pixels wide and 20 high when shown."""
    exif = PIL.Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Orientation] = 6
    exposure = exif.get_ifd(ExifTags.IFD.Exif)
    exposure[ExifTags.Base.DateTimeOriginal] = "2026:11:24 10:00:00"
    exposure[ExifTags.Base.ExifImageWidth] = 20
    exposure[ExifTags.Base.ExifImageHeight] = 12
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_profile_goes_from_file_to_file(tmp_path, source, target):
    path = tmp_path / f"in.{source}"
    PIL.Image.fromarray(PIXELS).save(path, icc_profile=SRGB)
    image = read_image(path)
    assert image.icc == SRGB
    write_image(tmp_path / f"out.{target}", image)
    with PIL.Image.open(tmp_path / f"out.{target}") as out:
        assert out.info["icc_profile"] == SRGB


def test_a_profile_of_other_colours_is_left_out(tmp_path):
    path = tmp_path / "in.jpg"
    for mode, space in (("CMYK", b"CMYK"), ("L", b"RGB "), ("RGB", b"GRAY")):
        icc = SRGB[:16] + space + SRGB[20:]
        PIL.Image.fromarray(PIXELS).convert(mode).save(path, icc_profile=icc)
        assert read_image(path).icc is None
    icc = SRGB[:16] + b"GRAY" + SRGB[20:]
    PIL.Image.fromarray(PIXELS[..., 0]).save(path, icc_profile=icc)
    assert read_image(path).icc == icc


@pytest.mark.parametrize("source", ["jpg", "png", "webp", "avif"])
@pytest.mark.parametrize("target", [*FORMATS, "heic", "jxl"])
def test_exif_goes_from_file_to_file(tmp_path, source, target):
    path = tmp_path / f"out.{target}"
    PIL.Image.fromarray(PIXELS).save(tmp_path / f"in.{source}", exif=camera_exif())
    image = read_image(tmp_path / f"in.{source}")
    large = Image(np.zeros((80, 48, 3), np.uint8), exif=image.exif)
    write_image(path, large, keywords=["rose"])
    with PIL.Image.open(path) as out:
        exif = out.getexif()
        assert exif[ExifTags.Base.Make] == "Maker"
        # The pixels are upright already; another turn would be wrong.
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert exif[ExifTags.Base.XPKeywords] == "rose\0".encode("utf-16-le")
        exposure = exif.get_ifd(ExifTags.IFD.Exif)
        assert exposure[ExifTags.Base.DateTimeOriginal] == "2026:11:24 10:00:00"
        assert exposure[ExifTags.Base.ExifImageWidth] == 48
        assert exposure[ExifTags.Base.ExifImageHeight] == 80
        place = exif.get_ifd(ExifTags.IFD.GPSInfo)
        assert place[ExifTags.GPS.GPSLatitudeRef] == "N"


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_exif_goes_through_tiff(tmp_path, depth, endian):
    exif = camera_exif()
    exif.endian = endian
    image = Image(np.zeros((80, 48, 3), depth), exif=exif.tobytes(), dpi=(300, 200))
    path = tmp_path / "out.tif"
    write_image(path, image, keywords=["rose"])
    # tifffile is strict about directories, and knows EXIF's.
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        assert tags["Make"].value == "Maker"
        assert tags["ExifTag"].value["DateTimeOriginal"] == "2026:11:24 10:00:00"
        assert tags["GPSTag"].value["GPSLatitudeRef"] == "N"
        assert tags["XResolution"].value == (300, 1)
        np.testing.assert_array_equal(tiff.asarray(), image.pixels)
    again = read_image(path)
    write_image(tmp_path / "out.jpg", again)
    with PIL.Image.open(tmp_path / "out.jpg") as out:
        found = out.getexif()
        assert found[ExifTags.Base.Make] == "Maker"
        assert found[ExifTags.Base.XPKeywords] == "rose\0".encode("utf-16-le")
        exposure = found.get_ifd(ExifTags.IFD.Exif)
        assert exposure[ExifTags.Base.ExifImageWidth] == 48
        assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        assert out.info["dpi"] == (300, 200)


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", [*FORMATS, "heic"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_xmp_goes_from_file_to_file(tmp_path, source, target, depth):
    path = tmp_path / f"in.{source}"
    options = {"xmp": XMP}
    if source == "tif":
        options = {"tiffinfo": {700: XMP}}
    if source == "png":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    PIL.Image.fromarray(PIXELS).save(path, **options)
    xmp = read_image(path).xmp
    write_image(
        tmp_path / f"out.{target}", Image(np.zeros((80, 48, 3), depth), xmp=xmp)
    )
    with PIL.Image.open(tmp_path / f"out.{target}") as out:
        found = out.info.get("xmp") or out.info["XML:com.adobe.xmp"].encode()
    assert b'tiff:Orientation="6"' not in found
    assert b'tiff:ImageWidth="48" exif:PixelYDim' in found
    assert b'"80">\n<tiff:ImageLength>80</tiff:ImageLength>' in found
    assert "<dc:title>café 20</dc:title>".encode() in found


@pytest.mark.parametrize("target", ["jpg", "png", "tif", "bmp", "png deep", "tif deep"])
def test_resolution_is_kept(tmp_path, target):
    PIL.Image.fromarray(PIXELS).save(tmp_path / "in.jpg", dpi=(300, 240))
    image = read_image(tmp_path / "in.jpg")
    assert image.dpi == (300, 240)
    suffix, _, deep = target.partition(" ")
    if deep:
        image = replace(image, pixels=image.pixels.astype(np.uint16))
    write_image(tmp_path / f"out.{suffix}", image)
    with PIL.Image.open(tmp_path / f"out.{suffix}") as out:
        assert out.info["dpi"] == pytest.approx((300, 240), abs=0.02)


def cmyk_profile():
    """A profile of two grid points per ink, in which colours are unlike the formula's.

    ICC.1:2010, 10.8 (lut16Type): 100 % cyan alone is L* 80, a* 60, b* -40, a pink.
    """
    clut = np.zeros((2, 2, 2, 2, 3))
    clut[:] = [0, 0, 0]
    clut[0, 0, 0, 0] = [100, 0, 0]
    clut[1, 0, 0, 0] = [80, 60, -40]
    # Legacy 16-bit Lab of mft2: L 0..100 as 0..0xFF00, a and b + 128 as 1/256.
    levels = np.stack(
        [clut[..., 0] * 652.8, (clut[..., 1] + 128) * 256, (clut[..., 2] + 128) * 256],
        -1,
    )
    line = np.array([0, 65535], ">u2").tobytes()
    table = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0])
    table += (
        np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], ">i4")
        .tobytes()
        .replace(b"\0\0\0\1", b"\0\1\0\0")
    )
    table += struct.pack(">HH", 2, 2) + 4 * line
    table += levels.astype(">u2").tobytes() + 3 * line
    white = b"XYZ \0\0\0\0" + np.array([0xF6D6, 0x10000, 0xD32D], ">i4").tobytes()
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {b"A2B0": table, b"wtpt": white, b"desc": text, b"cprt": b"text\0\0\0\0x\0"}
    index, body = b"", b""
    for name, data in tags.items():
        start = 128 + 4 + 12 * len(tags) + len(body)
        index += name + struct.pack(">II", start, len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + 4 + len(index) + len(body)
    header = struct.pack(
        ">I4sI4s4s4s", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += np.array([0xF6D6, 0x10000, 0xD32D], ">i4").tobytes()
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


@pytest.mark.parametrize("suffix", ["jpg", "tif", "deep tif"])
def test_cmyk_is_converted_with_its_profile(tmp_path, suffix):
    path = tmp_path / f"in.{suffix[-3:]}"
    icc = cmyk_profile()
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, 8:, 0] = 255
    if suffix == "deep tif":
        tifffile.imwrite(
            path, inks.astype(np.uint16) * 257, photometric="separated", iccprofile=icc
        )
    else:
        PIL.Image.fromarray(inks, "CMYK").save(path, icc_profile=icc, quality=100)
    image = read_image(path)
    assert image.icc is None
    assert image.depth == (16 if suffix == "deep tif" else 8)
    # L*a*b* (80, 60, -40) in sRGB, by the CIE's and sRGB's formulas: red is cut off.
    paper, pink = image.rgb[8, 2], image.rgb[8, 13]
    assert np.abs(paper.astype(int) - 255).max() <= 3
    np.testing.assert_allclose(pink, [255, 155, 255], atol=22)


def test_cmyk_without_a_profile_is_converted_by_the_formula(tmp_path, caplog):
    path = tmp_path / "in.tif"
    inks = np.full((4, 4, 4), [255, 0, 0, 0], np.uint8)
    PIL.Image.fromarray(inks, "CMYK").save(path)
    np.testing.assert_array_equal(read_image(path).pixels[0, 0], [0, 255, 255])
    PIL.Image.fromarray(inks, "CMYK").save(path, icc_profile=b"no profile")
    np.testing.assert_array_equal(read_image(path).pixels[0, 0], [0, 255, 255])
    assert f"{path}: CMYK without a usable profile" in caplog.text


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0no TIFF at all", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"]
)
def test_damaged_exif_is_left_out_with_a_warning(tmp_path, caplog, exif):
    path = tmp_path / "out.jpg"
    write_image(path, Image(PIXELS, exif=exif), keywords=["rose"])
    assert "EXIF is damaged and left out" in caplog.text
    with PIL.Image.open(path) as out:
        assert list(out.getexif()) == [ExifTags.Base.XPKeywords]


@pytest.mark.parametrize("target", ["png", "jpg"])
def test_exif_in_a_text_of_png(tmp_path, target):
    """As ImageMagick writes it: a name, the length, and hexadecimal digits."""
    data = camera_exif().tobytes()
    digits = "\n".join(data.hex()[i : i + 72] for i in range(0, 2 * len(data), 72))
    text = PngImagePlugin.PngInfo()
    text.add_text(
        "Raw profile type exif", f"\nexif\n{len(data):8}\n{digits}\n", zip=True
    )
    path = tmp_path / "in.png"
    PIL.Image.fromarray(PIXELS).save(path, pnginfo=text)
    image = read_image(path)
    assert image.pixels.shape == (20, 12, 3)
    write_image(tmp_path / f"out.{target}", image)
    with PIL.Image.open(tmp_path / f"out.{target}") as out:
        assert out.getexif()[ExifTags.Base.Make] == "Maker"


def test_keywords_are_added_to_the_photograph_s_own(tmp_path):
    exif = PIL.Image.Exif()
    exif[ExifTags.Base.XPKeywords] = (
        "holiday;bird;Rom\u00e9".encode("utf-16-le") + b"\0\0"
    )
    path = tmp_path / "out.jpg"
    image = Image(PIXELS, exif=exif.tobytes())
    for _ in range(2):
        write_image(path, image, keywords=["sky", "bird"], overwrite=True)
        with PIL.Image.open(path) as out:
            found = bytes(out.getexif()[ExifTags.Base.XPKeywords]).decode("utf-16-le")
        assert found == "holiday;Rom\u00e9;sky;bird\0"
        image = read_image(path)


def test_warnings_name_the_file(tmp_path, caplog):
    path = tmp_path / "out.jpg"
    write_image(path, Image(PIXELS, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
    assert f"{path}: EXIF is damaged" in caplog.text
    # Damaged metadata does not make a whole picture unusable.
    PIL.Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert read_image(path).pixels.shape == PIXELS.shape


def test_a_tiff_with_alpha_keeps_its_exif(tmp_path):
    path = tmp_path / "in.tif"
    pixels = np.dstack([PIXELS, PIXELS[..., :1] + 9])
    info = {ExifTags.Base.Copyright: "somebody"}
    PIL.Image.fromarray(pixels).save(path, tiffinfo=info)
    image = read_image(path)
    assert image.alpha is not None
    assert b"somebody" in image.exif
    assert image.dpi is None


@pytest.mark.parametrize(("kind", "count"), [(2, 8), (3, 4)])
def test_a_comment_of_another_type_stays(tmp_path, kind, count):
    """The standard has bytes there; this is a text, or numbers of two bytes each."""
    exif = PIL.Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"by hand\0"
    data = exif.tobytes()
    entry = struct.pack(">HHI", ExifTags.Base.UserComment, 1, 8)
    assert entry in data
    changed = struct.pack(">HHI", ExifTags.Base.UserComment, kind, count)
    path = tmp_path / "out.jpg"
    image = Image(PIXELS, exif=data.replace(entry, changed))
    write_image(path, image, comment="of ours")
    assert read_comment(path) != "of ours"


def test_threads_leave_no_filter_of_warnings(tmp_path):
    path = tmp_path / "in.jpg"
    PIL.Image.fromarray(PIXELS).save(path, exif=camera_exif())
    before = list(warnings.filters)

    def read_and_write(number):
        for _ in range(20):
            write_image(tmp_path / f"{number}.jpg", read_image(path), overwrite=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_and_write, range(4)))
    assert warnings.filters == before
