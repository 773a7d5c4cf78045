"""Colour profiles and EXIF, from what Pillow reads to what it writes."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import PIL.Image
from PIL import ExifTags

from linearsr_jax.core.images import Image

_logger = logging.getLogger(__name__)

# XPKeywords, which Windows introduced: UTF-16, separated by semicolons.
_XP_KEYWORDS = 0x9C9E


def profile_of(image: PIL.Image.Image, channels: int) -> bytes | None:
    """Returns an image's ICC profile if it is one of so many channels.

    The profile of CMYK pixels, say, is not that of the RGB made of them.
    """
    icc = image.info.get("icc_profile") or b""
    # Bytes 16 to 19 of a profile's header name its colour space.
    return icc if icc[16:20] == {1: b"GRAY", 3: b"RGB "}[channels] else None


def metadata_options(
    image: Image, keywords: Sequence[str], *, image_format: str
) -> dict[str, Any]:
    """Returns the options of Pillow's `save` that write an image's metadata.

    EXIF that is damaged is left out with a warning. In a TIFF its parts on exposure and
    place are left out: Pillow cannot write them.

    Args:
      image: whose profile and EXIF it is, as it will be written.
      keywords: added to the EXIF.
      image_format: Pillow's name of the format.
    """
    options: dict[str, Any] = {}
    if image_format == "BMP":
        return options  # it has no place for either
    if image.icc is not None:
        options["icc_profile"] = image.icc
    if image.exif is None and not keywords:
        return options
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            options["exif"] = _exif_bytes(image, keywords, image_format)
    # Damaged EXIF makes Pillow raise almost anything.
    except Exception as error:
        _logger.warning("EXIF is damaged and left out (%s)", error)
        plain = Image(image.pixels)
        options["exif"] = _exif_bytes(plain, keywords, image_format)
    return options


def _exif_bytes(image: Image, keywords: Sequence[str], image_format: str) -> bytes:
    exif = PIL.Image.Exif()
    exif.load(image.exif or b"")
    if image_format == "TIFF":
        exif.pop(ExifTags.IFD.Exif, None)
        exif.pop(ExifTags.IFD.GPSInfo, None)
    elif ExifTags.IFD.Exif in exif:
        height, width = image.pixels.shape[:2]
        exposure = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in (("ExifImageWidth", width), ("ExifImageHeight", height)):
            if ExifTags.Base[tag] in exposure:
                exposure[ExifTags.Base[tag]] = side
    if keywords:
        exif[_XP_KEYWORDS] = ";".join(keywords).encode("utf-16-le") + b"\0\0"
    return exif.tobytes()
