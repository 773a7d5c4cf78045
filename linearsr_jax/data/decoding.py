"""Image files to 8-bit RGB, and what their headers say without decoding them.

Colour: images are read as they are stored. Embedded ICC profiles are not
applied and alpha is ignored (the colour under transparent pixels is used).
"""

import io
import os

import numpy as np
from PIL import ExifTags, Image, ImageOps

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


def decode_rgb(data: bytes) -> np.ndarray:
    """Decodes one image file to 8-bit RGB.

    EXIF orientation is applied. Grayscale is repeated over the channels, 16 bits
    are rounded to 8, alpha is ignored, and of several frames the first is taken.

    Args:
      data: an image file in any format that Pillow reads.

    Returns:
      uint8 array (H, W, 3), values 0..255.

    Raises:
      OSError, SyntaxError, ValueError and others that Pillow's decoders raise:
      the file is truncated, not an image, or of a pixel type without a defined
      range (floating point).
    """
    with Image.open(io.BytesIO(data)) as image:
        _refuse_floats(image)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.int64)
            # Pillow's 32-bit "I" is also what 16-bit files open as.
            if values.min() < 0 or values.max() > 65535:
                raise ValueError("integer pixels outside 0..65535")
            gray = ((values + 128) // 257).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        if image.mode == "P":
            # Straight to RGB, Pillow warns about palettes with transparency.
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Reads (width, height) in pixels, after EXIF orientation, from the header.

    A file that is cut off behind its header passes, in most formats.

    Raises:
      As `decode_rgb`; and FileNotFoundError, PermissionError.
    """
    with Image.open(path) as image:
        _refuse_floats(image)
        width, height = image.size
        # Not image.getexif(): that of PNG decodes all pixels to look behind them.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        # Of TIFF Pillow gives the size as it will be.
        if image.format != "TIFF" and orientation in (5, 6, 7, 8):
            return height, width
        return width, height


def _refuse_floats(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")


def describe(error: Exception) -> str:
    """One line for an exception of Pillow; its messages may hold whole paths."""
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image that can be read, whatever its name says"
    return " ".join(f"cannot be decoded: {error}".split())
