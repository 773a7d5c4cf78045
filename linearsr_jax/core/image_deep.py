"""Images of more than 8 bits per channel, which Pillow cannot hold in colour.

HEIF is read by its own package. All else by libvips: it reads and writes PNG and TIFF
of 16 bits and AVIF of 12 with every compression, keeps profile, EXIF and XMP, and its
wheel is 8 MB (imagecodecs has 26 MB and leaves the metadata to us, OpenCV 61 MB and
loses it, tifffile alone reads no LZW).
"""

import io
import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.image_jxl import bits_per_sample
from linearsr_jax.core.image_metadata import COMMENT_KEY
from linearsr_jax.core.image_tiff import drop_resolution_unit
from linearsr_jax.core.images import Image

_logger = logging.getLogger(__name__)

# Above this a TIFF needs 64-bit offsets, if nothing can be compressed.
_BIG_TIFF = 2**32 - 2**24
_MM_PER_INCH = 25.4
# Signature and the chunk IHDR, which is the first.
_PNG_HEADER = 8 + 25


class PixelTypeError(LinearSRError, ValueError):
    """Raised for pixels that are no unsigned integers of 8 or 16 bits."""


def is_deep(file: Path | io.BytesIO, image: PIL.Image.Image) -> bool:
    """Tells whether 8 bits would lose depth; to be called before Pillow decodes.

    Args:
      file: where the image is from.
      image: what Pillow opened.
    """
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "AVIF":
        return bool(_open(file, "AVIF").get("bits-per-sample") > 8)
    if image.format == "HEIF":
        return image.info["bit_depth"] > 8
    if image.format == "JXL":
        data = file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes()
        return (bits_per_sample(data) or 8) > 8
    # Pillow decodes 16-bit colour PNG and TIFF to 8 bits without a word; only the
    # raw mode of the undecoded data tells. (In a BMP "BGR;16" means 5-6-5 bits.)
    return image.format in ("PNG", "TIFF") and (
        any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        # Planar TIFFs have the raw mode of a plane.
        or _bits_per_sample(image) > 8
    )


def read_deep(
    file: Path | io.BytesIO, image_format: str, *, accept_damage: bool
) -> np.ndarray:
    """Reads the pixels of a PNG, TIFF, AVIF or HEIF; CMYK becomes sRGB by its profile.

    Args:
      file: a name, or all bytes.
      image_format: Pillow's name of the format.
      accept_damage: whether pixels that are missing may come out as black.

    Returns:
      uint16 (H, W, 1..4): gray or RGB, not turned upright, and alpha.

    Raises:
      PixelTypeError: pixels of another type than unsigned integers of up to 16 bits.
      Exception: it cannot be decoded; of the package that tried.
    """
    if image_format == "HEIF":
        return _read_heif(file)
    image = _open(file, image_format, "none" if accept_damage else "error")
    if image.format != "ushort":
        raise PixelTypeError(f"has pixels of type {image.format}")
    if image.interpretation == "cmyk":
        return _cmyk_to_rgb(image)
    return _array_of(image)


def _array_of(image):
    pixels = image.numpy()
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _cmyk_to_rgb(image):
    import pyvips

    # As image_decoding does with 8 bits; the intent is relative by default.
    try:
        if image.get_typeof("icc-profile-data"):
            return image.icc_transform(
                "srgb", embedded=True, black_point_compensation=True, depth=16
            ).numpy()
    except pyvips.Error as error:
        _logger.warning(
            "%s: CMYK without a usable profile: colours are a guess (%s)",
            image.filename or "image",
            error.detail,
        )
    light = 65535 - image.numpy().astype(np.uint32)
    light = light[..., :3] * light[..., 3:4]
    return ((light + 32767) // 65535).astype(np.uint16)


@dataclass(frozen=True)
class UnknownTiff:
    """A TIFF of a kind that Pillow does not know.

    Attributes:
      channels: uint8 or uint16 (H, W, 1..4): gray or RGB, and alpha; not turned.
      orientation: EXIF's, 1 to 8.
      pages: how many the file has; this is the first.
      icc, xmp: see `Image`.
    """

    channels: np.ndarray
    orientation: int
    pages: int
    icc: bytes | None
    xmp: bytes | None


def read_unknown_tiff(
    file: Path | io.BytesIO, *, accept_damage: bool, max_pixels: int
) -> UnknownTiff:
    """Reads a TIFF that Pillow does not know, such as 16-bit gray with alpha.

    Args:
      file, accept_damage: see `read_deep`.
      max_pixels: larger ones are refused before they are decoded.

    Raises:
      PixelTypeError: pixels of another type than 8 or 16 bits, gray or RGB.
      OverflowError: too many pixels.
      Exception: it is no TIFF, or cannot be decoded; of the package that tried.
    """
    image = _open(file, "TIFF", "none" if accept_damage else "error")
    if image.format not in ("uchar", "ushort"):
        raise PixelTypeError(f"has pixels of type {image.format}")
    if image.interpretation not in ("b-w", "grey16", "srgb", "rgb16"):
        raise PixelTypeError(f"has colours of the kind {image.interpretation}")
    if image.width * image.height > max_pixels:
        raise OverflowError("too many pixels")

    def get(name):
        return image.get(name) if image.get_typeof(name) else None

    orientation = get("orientation") or 1
    return UnknownTiff(
        _array_of(image),
        orientation,
        get("n-pages") or 1,
        get("icc-profile-data"),
        get("xmp-data"),
    )


def _read_heif(file):
    import pillow_heif

    image = pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    full = 2 ** image.info["bit_depth"] - 1
    levels = np.asarray(image).astype(np.uint32)
    pixels = ((levels * 65535 + full // 2) // full).astype(np.uint16)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def write_deep(
    path: Path,
    image_format: str,
    image: Image,
    *,
    exif: bytes | None = None,
    comment: str | None = None,
    quality: int = 95,
) -> None:
    """Writes an image of 16 bits, with its profile, XMP and resolution.

    Args:
      path: the output, replaced if it exists.
      image_format: PNG, TIFF or AVIF, which gets 12 bits.
      image: what to write.
      exif: its EXIF; not written into a TIFF.
      comment: ASCII; written into a PNG.
      quality: quality of an AVIF, 1 to 100.
    """
    import pyvips

    channels = image.channels
    if image_format == "TIFF" and channels.shape[2] == 2:
        # Gray with alpha in 16 bits is a TIFF that Pillow, for one, does not open.
        channels = channels[..., [0, 0, 0, 1]]
    out = pyvips.Image.new_from_array(
        channels, interpretation="grey16" if channels.shape[2] < 3 else "rgb16"
    )
    # libvips writes some resolution always; see below.
    xres, yres = (dots / _MM_PER_INCH for dots in image.dpi or (1, 1))
    # Metadata belongs to a copy: an array's image has none.
    out = out.copy(xres=xres, yres=yres)
    blobs = {"icc-profile-data": image.icc, "exif-data": exif, "xmp-data": image.xmp}
    for name, blob in blobs.items():
        if blob is not None:
            out.set_type(pyvips.GValue.blob_type, name, blob)  # ty: ignore[invalid-argument-type]
    icc, xmp, own = (getattr(pyvips.ForeignKeep, k) for k in ("ICC", "XMP", "EXIF"))
    if image_format == "PNG":
        # libvips would add fields to the EXIF, and writes XMP's UTF-8 as Latin-1.
        data = out.pngsave_buffer(keep=icc)
        if image.dpi is None:
            data = _without_chunk(data, b"pHYs")
        with path.open("wb") as file:
            file.write(data[:_PNG_HEADER])
            if exif is not None:
                file.write(_png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
            if comment is not None:
                text = f"{COMMENT_KEY}\0{comment}".encode("ascii")
                file.write(_png_chunk(b"tEXt", text))
            if image.xmp is not None:
                head = b"XML:com.adobe.xmp" + bytes(5)  # no compression, no language
                file.write(_png_chunk(b"iTXt", head + image.xmp))
            file.write(data[_PNG_HEADER:])
    elif image_format == "TIFF":
        is_big = channels.nbytes > _BIG_TIFF
        out.tiffsave(
            str(path),
            compression="deflate",
            predictor="horizontal",
            bigtiff=is_big,
            resunit="inch",
            keep=icc | xmp,
        )
        if image.dpi is None:
            drop_resolution_unit(path)
    else:
        out.heifsave(
            str(path),
            compression="av1",
            bitdepth=12,
            Q=quality,
            subsample_mode="off",
            keep=icc | xmp if exif is None else icc | xmp | own,
        )


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _without_chunk(data: bytes, kind: bytes) -> bytes:
    """Cuts a chunk that comes before the pixels out of a PNG."""
    place = _PNG_HEADER
    while (found := data[place + 4 : place + 8]) != b"IDAT":
        end = place + 12 + struct.unpack_from(">I", data, place)[0]
        if found == kind:
            return data[:place] + data[end:]
        place = end
    return data


def _open(file, image_format, fail_on="none"):
    import pyvips

    # It remembers files by name, and they change; and its errors, of other files.
    pyvips.cache_set_max(0)
    pyvips.vips_lib.vips_error_clear()
    # What it warns of, damage say, is either an error or accepted.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    loader = {"PNG": "pngload", "TIFF": "tiffload", "AVIF": "heifload"}[image_format]
    if isinstance(file, io.BytesIO):
        load = getattr(pyvips.Image, f"{loader}_buffer")
        return load(file.getvalue(), fail_on=fail_on)
    return getattr(pyvips.Image, loader)(str(file), fail_on=fail_on)


def _bits_per_sample(image):
    tags = getattr(image, "tag_v2", None) or {}
    return max(tags.get(258, (8,)))
