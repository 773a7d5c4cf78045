"""Profiles, EXIF, XMP and resolution, from what Pillow reads to what is written."""

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import PIL.Image
from PIL import ExifTags

from linearsr_jax.core.images import Image
from linearsr_jax.core.raised_warnings import raising_warnings

_logger = logging.getLogger(__name__)

# Keyword of our comment among the texts of a PNG. Elsewhere it is EXIF's UserComment,
# and JSON with this key.
COMMENT_KEY = "linearsr"
_COMMENT_START = b"ASCII\0\0\0"
# Of JPEG's 65,533 bytes for EXIF, what may be there before a comment comes.
_MAX_EXIF = 60_000
_X_RESOLUTION = 282  # of TIFF
# XPKeywords, which Windows introduced: UTF-16, separated by semicolons.
_XP_KEYWORDS = 0x9C9E
# Of a TIFF's first directory, what describes the photograph and not the file's layout.
_TIFF_TAGS = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
    ExifTags.Base.Rating,
    ExifTags.Base.XPTitle,
    ExifTags.Base.XPComment,
    ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords,
    ExifTags.Base.XPSubject,
}
_XMP_SIDES = (
    (rb"(?:tiff:ImageWidth|exif:PixelXDimension)", 1),
    (rb"(?:tiff:ImageLength|exif:PixelYDimension)", 0),
)


def profile_of(icc: bytes | None, channels: int) -> bytes | None:
    """Returns an ICC profile if it is one of so many channels.

    The profile of CMYK pixels, say, is not that of the RGB made of them.
    """
    icc = icc or b""
    # Bytes 16 to 19 of a profile's header name its colour space.
    return icc if icc[16:20] == {1: b"GRAY", 3: b"RGB "}[channels] else None


def metadata_of(image: PIL.Image.Image) -> dict[str, Any]:
    """Returns the fields exif, xmp and dpi of an `Image`, from one that Pillow read."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return {"exif": _exif_of(image), "xmp": upright_xmp(xmp), "dpi": _dpi_of(image)}


def upright_xmp(xmp: bytes | None) -> bytes | None:
    """Returns XMP in which an image's orientation is upright."""
    return None if xmp is None else _set_xmp(xmp, rb"tiff:Orientation", 1)


def sized_xmp(image: Image) -> bytes | None:
    """Returns an image's XMP, in which the image's own width and height are set."""
    xmp = image.xmp
    for name, axis in _XMP_SIDES:
        if xmp is not None:
            xmp = _set_xmp(xmp, name, image.pixels.shape[axis])
    return xmp


def sized_exif(
    image: Image,
    keywords: Sequence[str] = (),
    *,
    comment: str | None = None,
    name: str = "image",
) -> PIL.Image.Exif | None:
    """Makes the EXIF to be written with an image.

    EXIF that is damaged is left out with a warning.

    Args:
      image: whose EXIF it is; its own width and height replace those of the EXIF.
      keywords: added to XPKeywords, which photo managers show as tags.
      comment: written as UserComment; ASCII.
      name: what warnings call the image.
    """
    if image.exif is None and not keywords and comment is None:
        return None
    try:
        with raising_warnings(UserWarning):
            exif = _sized(image)
            exif.tobytes()
    # Damaged EXIF makes Pillow raise almost anything.
    except Exception as error:
        _warn_of_exif(name, error)
        exif = PIL.Image.Exif()
    if comment is not None:
        exposure = exif.get_ifd(ExifTags.IFD.Exif)
        exposure[ExifTags.Base.UserComment] = _COMMENT_START + comment.encode("ascii")
    if keywords:
        own = [word for word in _keywords_of(exif) if word not in keywords]
        text = ";".join((*own, *keywords))
        exif[_XP_KEYWORDS] = text.encode("utf-16-le") + b"\0\0"
    return exif


def _keywords_of(exif: PIL.Image.Exif) -> list[str]:
    own = exif.get(_XP_KEYWORDS, b"")
    # Bytes, or as Pillow has some TIFF types a tuple of them.
    is_bytes = isinstance(own, bytes | tuple) and all(x in range(256) for x in own)
    text = bytes(own).decode("utf-16-le", "replace") if is_bytes else ""
    return [word for word in text.rstrip("\0").split(";") if word]


def has_room_for_comment(image_format: str, image: Image) -> bool:
    """Tells whether a comment fits into an image's file, and replaces no other.

    Args:
      image_format: Pillow's name of the format.
      image: what will be written.
    """
    if image_format == "PNG":
        return True
    if image_format == "BMP" or len(image.exif or b"") > _MAX_EXIF:
        return False
    try:
        exif = PIL.Image.Exif()
        exif.load(image.exif or b"")
        own = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    # Damaged EXIF, which is left out, makes Pillow raise almost anything.
    except Exception:
        return True
    if not isinstance(own, bytes):
        return False  # of another type than the standard's, but somebody's
    # The first eight bytes name the encoding; cameras leave blanks and zeros.
    text = own[8:].strip(b"\0 ")
    # What an earlier output had, of which this one was made, may go.
    return not text or f'"{COMMENT_KEY}": '.encode() in text


def comment_of(image: PIL.Image.Image) -> str | None:
    """Returns the comment that an image was written with; None if it has none."""
    if image.format == "PNG":
        return image.info.get(COMMENT_KEY)
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(comment, bytes) or not comment.startswith(_COMMENT_START):
        return None
    return comment.removeprefix(_COMMENT_START).decode("ascii", "replace")


def _sized(image: Image) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif.load(image.exif or b"")
    exif.pop(ExifTags.Base.Orientation, None)
    if ExifTags.IFD.Exif in exif:
        height, width = image.pixels.shape[:2]
        exposure = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in (("ExifImageWidth", width), ("ExifImageHeight", height)):
            if ExifTags.Base[tag] in exposure:
                exposure[ExifTags.Base[tag]] = side
    return exif


def _exif_of(image: PIL.Image.Image) -> bytes | None:
    if image.format != "TIFF":
        return image.info.get("exif") or _raw_exif(image)
    try:
        found, exif = image.getexif(), PIL.Image.Exif()
        exif.update({tag: found[tag] for tag in _TIFF_TAGS & found.keys()})
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if ifd := found.get_ifd(part):
                exif.get_ifd(part).update(ifd)
        data = exif.tobytes()
    # Damaged EXIF makes Pillow raise almost anything.
    except Exception as error:
        _warn_of_exif(name_of(image), error)
        return None
    return data if data != PIL.Image.Exif().tobytes() else None


def _raw_exif(image: PIL.Image.Image) -> bytes | None:
    """Returns the EXIF that ImageMagick writes as a text into PNGs.

    Three lines, the last with its length, and then hexadecimal digits.
    """
    text = image.info.get("Raw profile type exif")
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) if text else None
    except ValueError as error:
        _warn_of_exif(name_of(image), error)
        return None


def name_of(image: PIL.Image.Image) -> str:
    """Returns the name of the file that an image was opened from, for messages."""
    return str(getattr(image, "filename", "") or "image")


def _warn_of_exif(name: str, error: Exception) -> None:
    _logger.warning("%s: EXIF is damaged and left out (%s)", name, error)


def _dpi_of(image: PIL.Image.Image) -> tuple[float, float] | None:
    # To Pillow a TIFF without resolution has one pixel per inch.
    if image.format == "TIFF" and _X_RESOLUTION not in getattr(image, "tag_v2", {}):
        return None
    try:
        dpi = tuple(float(value) for value in image.info.get("dpi") or ())
    # TIFFs have fractions of zeros.
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if len(dpi) != 2 or not all(math.isfinite(v) and v > 0 for v in dpi):
        return None
    return dpi


def _set_xmp(xmp: bytes, name: bytes, value: int) -> bytes:
    """Replaces a number in XMP, which is an attribute or an element."""
    number = str(value).encode()
    pattern = rb"(" + name + rb"""\s*=\s*["']|<""" + name + rb"""[^>/]*>\s*)\d+"""
    return re.sub(pattern, lambda match: match[1] + number, xmp)
