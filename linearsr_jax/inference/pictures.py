"""The images that the Python API takes and returns, to and from `core.images.Image`."""

from typing import Any, TypeVar

import numpy as np
import PIL.Image

from linearsr_jax.core.image_decoding import as_image
from linearsr_jax.core.image_metadata import sized_exif, sized_xmp
from linearsr_jax.core.images import Image
from linearsr_jax.inference.errors import UpscaleError

ImageLike = TypeVar("ImageLike", np.ndarray, PIL.Image.Image, Image)


def to_image(image: Any) -> Image:
    """Turns what users give into an Image; see `core.image_decoding.as_image`.

    Raises:
      UpscaleError: not an image, or of another type or shape.
    """
    try:
        return as_image(image)
    except (ValueError, OSError) as error:
        raise UpscaleError(f"image {error}") from error


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
