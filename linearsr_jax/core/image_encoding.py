"""From a `core.images.Image` to the bytes of a file."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
from PIL import ExifTags
from PIL.PngImagePlugin import PngInfo

from linearsr_jax.core.image_deep import write_deep
from linearsr_jax.core.image_formats import Format
from linearsr_jax.core.image_metadata import COMMENT_KEY, sized_exif, sized_xmp
from linearsr_jax.core.image_tiff import append_exif
from linearsr_jax.core.images import Image, to_8_bits

_logger = logging.getLogger(__name__)

_XMP_TAG = 700  # of TIFF
# Formats with a resolution of their own; for others it is in the EXIF.
_WITH_RESOLUTION = ("PNG", "JPEG", "TIFF", "BMP")


def encode_image(
    path: Path,
    form: Format,
    image: Image,
    *,
    keywords: Sequence[str] = (),
    comment: str | None = None,
    quality: int | None = None,
    name: str = "image",
) -> None:
    """Writes a file; see `image_io.write_image`, which checks the arguments.

    Args:
      path: the output, replaced if it exists; its suffix does not matter.
      form: its format.
      image, keywords, comment, quality: see `image_io.write_image`.
      name: what warnings call the image.
    """
    quality = form.quality and (quality or form.quality)
    image = replace(image, xmp=sized_xmp(image))
    exif = None
    if form.has_metadata:
        is_text = form.name == "PNG"
        comment_of_exif = None if is_text else comment
        exif = sized_exif(image, keywords, comment=comment_of_exif, name=name)
        if form.name not in _WITH_RESOLUTION and image.dpi is not None:
            exif = PIL.Image.Exif() if exif is None else exif
            exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = image.dpi
            exif[ExifTags.Base.ResolutionUnit] = 2  # inches
    if image.depth > form.depth:
        _logger.info(
            "%s: %s holds %d bits per channel of %d; .png and .tif hold all",
            name,
            form.name,
            form.depth,
            image.depth,
        )
    if image.depth == 16 and form.depth > 8:
        data = exif.tobytes() if exif is not None else None
        write_deep(
            path, form.name, image, exif=data, comment=comment, quality=quality or 100
        )
    else:
        options = dict(form.options)
        if quality is not None:
            options["quality"] = quality
        options |= _metadata_options(form, image, exif, comment)
        if form.name == "AVIF" and image.pixels.shape[2] == 1:
            options["subsampling"] = "4:0:0"
        if form.name == "JXL" and image.icc is not None:
            # Otherwise colours outside sRGB are cut off.
            options["use_original_profile"] = True
        pixels = to_8_bits(image.channels)
        # Pillow knows grayscale as (H, W).
        pixels = pixels if pixels.shape[2] > 1 else pixels[..., 0]
        PIL.Image.fromarray(pixels).save(path, format=form.name, **options)
    if form.name == "TIFF" and exif is not None:
        append_exif(path, exif)


def _metadata_options(
    form: Format,
    image: Image,
    exif: PIL.Image.Exif | None,
    comment: str | None,
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if image.dpi is not None and form.name in _WITH_RESOLUTION:
        options["dpi"] = image.dpi
    if not form.has_metadata:
        return options
    if image.icc is not None:
        options["icc_profile"] = image.icc
    if exif is not None and form.name != "TIFF":
        options["exif"] = exif.tobytes()
    if form.name == "PNG":
        options["pnginfo"] = text = PngInfo()
        if image.xmp is not None:
            text.add_itxt("XML:com.adobe.xmp", image.xmp.decode("utf-8", "replace"))
        if comment is not None:
            text.add_text(COMMENT_KEY, comment)
    elif image.xmp is not None:
        if form.name == "TIFF":
            options["tiffinfo"] = {_XMP_TAG: image.xmp}
        else:
            options["xmp"] = image.xmp
    return options
