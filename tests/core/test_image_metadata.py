"""Profiles and EXIF: from one file to the next, whatever the format."""

import numpy as np
import PIL.Image
import pytest
from PIL import ExifTags, ImageCms

from linearsr_jax.core.image_io import read_image, write_image
from linearsr_jax.core.images import Image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PIXELS = np.zeros((12, 20, 3), np.uint8)
FORMATS = ["jpg", "png", "webp", "tif"]


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


@pytest.mark.parametrize("source", ["jpg", "png", "webp"])
@pytest.mark.parametrize("target", ["jpg", "png", "webp"])
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


def test_tiff_gets_the_part_that_pillow_can_write(tmp_path):
    PIL.Image.fromarray(PIXELS).save(tmp_path / "in.jpg", exif=camera_exif())
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.jpg"))
    with PIL.Image.open(tmp_path / "out.tif") as out:
        assert out.getexif()[ExifTags.Base.Make] == "Maker"
        assert out.size == (12, 20)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0no TIFF at all", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"]
)
def test_damaged_exif_is_left_out_with_a_warning(tmp_path, caplog, exif):
    path = tmp_path / "out.jpg"
    write_image(path, Image(PIXELS, exif=exif), keywords=["rose"])
    assert "EXIF is damaged and left out" in caplog.text
    with PIL.Image.open(path) as out:
        assert list(out.getexif()) == [ExifTags.Base.XPKeywords]
