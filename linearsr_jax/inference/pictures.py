"""The images that the Python API takes and returns, to and from `core.images.Image`."""

import logging
from typing import Any, TypeVar

import numpy as np
import PIL.Image

from linearsr_jax.core.image_decoding import convert_image
from linearsr_jax.core.image_metadata import sized_exif, sized_xmp
from linearsr_jax.core.images import Image
from linearsr_jax.inference.errors import UpscaleError

_logger = logging.getLogger(__name__)

ImageLike = TypeVar("ImageLike", np.ndarray, PIL.Image.Image, Image)


def to_image(image: Any) -> Image:
    """Turns what users give into an Image.

    A Pillow image is turned upright as its EXIF says.

    Raises:
      UpscaleError: not an image, or of another type or shape.
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
        except (ValueError, OSError) as error:
            raise UpscaleError(
                f"image mode {image.mode} cannot be used ({error}); convert to RGB"
            ) from error
    pixels = np.asarray(image)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UpscaleError(f"pixels must be uint8 or uint16, got {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise UpscaleError(
            "image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) and not empty, "
            f"got {np.shape(image)}"
        )
    if pixels.shape[2] == 4:
        return Image(pixels[..., :3], pixels[..., 3])
    return Image(pixels)


def like(image: Any, result: Image) -> Any:
    """Turns a result into what the image was, with what it carries."""
    if isinstance(image, Image):
        return result
    if isinstance(image, PIL.Image.Image):
        return _to_pillow(result)
    channels = result.channels
    return channels if np.ndim(image) == 3 else channels[..., 0]


def _to_pillow(result: Image) -> PIL.Image.Image:
    channels = result.channels
    if channels.shape[2] == 1:
        channels = channels[..., 0]
    pillow = PIL.Image.fromarray(channels)
    exif = sized_exif(result)
    info = {
        "icc_profile": result.icc,
        "exif": None if exif is None else exif.tobytes(),
        "xmp": sized_xmp(result),
        "dpi": result.dpi,
    }
    pillow.info.update({k: v for k, v in info.items() if v is not None})
    return pillow
