"""From what Pillow opened to a `core.images.Image`: colours, alpha, upright pixels."""

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import ExifTags, ImageCms

from linearsr_jax.core.image_deep import PixelTypeError, read_deep, read_unknown_tiff
from linearsr_jax.core.image_metadata import (
    metadata_of,
    name_of,
    profile_of,
    upright_xmp,
)
from linearsr_jax.core.images import Image

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstPage:
    """The first page of a file, and how many it has."""

    image: Image
    pages: int


def as_image(image: Any) -> Image:
    """Turns an array, a Pillow image or an Image into an Image.

    A Pillow image is turned upright as its EXIF says.

    Args:
      image: one of them; arrays are uint8 or uint16, (H, W), (H, W, 1), (H, W, 3) or
        (H, W, 4) with alpha last.

    Raises:
      ValueError: another type or shape; it goes on after the word "image".
      OSError: a Pillow image that cannot be decoded.
    """
    if isinstance(image, Image):
        return image
    if isinstance(image, PIL.Image.Image):
        if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
            _logger.warning(
                "Pillow reads the 16 bits of colour images as 8; read_image reads all"
            )
        try:
            return convert_image(image)
        except ValueError as error:
            raise ValueError(f"of mode {image.mode} cannot be used: {error}") from error
    pixels = np.asarray(image)
    # In the machine's order of bytes.
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"must have uint8 or uint16 pixels, got {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(
            "must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) and not empty, "
            f"got {np.shape(image)}"
        )
    if pixels.shape[2] == 4:
        return Image(pixels[..., :3], pixels[..., 3])
    return Image(pixels)


def convert_image(image: PIL.Image.Image) -> Image:
    """Turns a Pillow image into one of ours, upright, with what it carries.

    Palette, CMYK and other colour spaces become RGB, CMYK by its profile if it has one;
    black and white becomes grayscale. An alpha channel that is opaque everywhere is
    dropped.

    Raises:
      PixelTypeError: pixels that are floats or integers outside 0..65535.
    """
    image.load()
    orientation, alpha = orientation_of(image), None
    # Of what Pillow opened: it forgets the format of what it converts.
    metadata, icc = metadata_of(image), image.info.get("icc_profile")
    refuse_floats(image)
    if image.mode.startswith("I"):
        # Pillow's 32-bit "I" is also what 16-bit files open as.
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise PixelTypeError("has integer pixels outside 0..65535")
        pixels = pixels.astype(np.uint16)[..., None]
    else:
        if image.mode == "La":
            image = image.convert("LA")  # to others Pillow does not convert it
        is_gray = image.mode in ("1", "L", "LA")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = np.asarray(image.getchannel("A"))
        if is_gray:
            pixels = np.asarray(image.convert("L"))[..., None]
        else:
            pixels = np.asarray(_to_rgb(image))
    metadata["icc"] = profile_of(icc, pixels.shape[2])
    return _upright_image(pixels, alpha, orientation, metadata)


def convert_deep(
    file: Path | io.BytesIO, image: PIL.Image.Image, *, accept_damage: bool
) -> Image:
    """Reads a file of more than 8 bits per channel; see `convert_image`.

    Args:
      file: where the image is from.
      image: what Pillow opened and has not decoded, which has the metadata.
      accept_damage: see `read_deep`.
    """
    if image.format == "PNG":
        image.load()  # it may have metadata behind the pixels
    # libvips turns what the container of an AVIF says, and its EXIF does not count. Of
    # a HEIF the same holds, and its plugin says so.
    orientation = 1 if image.format == "AVIF" else orientation_of(image)
    channels = read_deep(file, str(image.format), accept_damage=accept_damage)
    pixels, alpha = _split_alpha(channels)
    # A TIFF's extra channel need not be alpha: Pillow knows.
    alpha = alpha if image.has_transparency_data else None
    icc = profile_of(image.info.get("icc_profile"), pixels.shape[2])
    metadata = metadata_of(image) | {"icc": icc}
    return _upright_image(pixels, alpha, orientation, metadata)


def convert_tiff(
    file: Path | io.BytesIO, *, accept_damage: bool, max_pixels: int
) -> FirstPage:
    """Reads a TIFF that Pillow does not know, such as 16-bit gray with alpha.

    Profile and XMP are kept, and EXIF is lost.

    Args:
      file: where the image is from.
      accept_damage: see `read_deep`.
      max_pixels: larger ones are refused.

    Raises:
      PixelTypeError, Exception: see `read_deep`.
    """
    found = read_unknown_tiff(file, accept_damage=accept_damage, max_pixels=max_pixels)
    pixels, alpha = _split_alpha(found.channels)
    icc = profile_of(found.icc, pixels.shape[2])
    metadata = {"icc": icc, "xmp": upright_xmp(found.xmp)}
    image = _upright_image(pixels, alpha, found.orientation, metadata)
    return FirstPage(image, found.pages)


def refuse_floats(image: PIL.Image.Image) -> None:
    """Refuses an image of floating-point pixels, whose range is unknown.

    Raises:
      PixelTypeError: it is one.
    """
    if image.mode == "F":
        raise PixelTypeError("has floating-point pixels, whose range is unknown")


def orientation_of(image: PIL.Image.Image) -> int:
    """Returns EXIF's orientation of an image, 1 (upright) to 8.

    That of a PNG may lie behind the pixels, which are not decoded for it.
    """
    # Not image.getexif(): that of PNG decodes all pixels.
    orientation = PIL.Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _split_alpha(channels):
    if channels.shape[2] in (2, 4):
        return channels[..., :-1], channels[..., -1]
    return channels, None


def _upright_image(pixels, alpha, orientation, metadata):
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        alpha = None
    return Image(
        _upright(pixels, orientation),
        None if alpha is None else _upright(alpha, orientation),
        **metadata,
    )


def _upright(pixels, orientation):
    # The EXIF standard: where row 0 and column 0 of the stored image belong.
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(image):
    icc = image.info.get("icc_profile")
    if image.mode != "CMYK" or not icc:
        return image.convert("RGB")
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            # What printers' programs show by default.
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError) as error:
        _logger.warning(
            "%s: CMYK without a usable profile: colours are a guess (%s)",
            name_of(image),
            error,
        )
        return image.convert("RGB")
