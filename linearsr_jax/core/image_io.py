"""Reading and writing image files.

`read_image` turns every file into a `core.images.Image`, and its argument `refuse` says
what a caller will not accept: upscaling and evaluation refuse what they would lose
(STRICT); training and tagging only look at the colours and refuse nothing (LENIENT).
"""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL.Image
from PIL import ExifTags, ImageOps

from linearsr_jax.core.files import written_whole
from linearsr_jax.core.image_metadata import metadata_options, profile_of
from linearsr_jax.core.images import Image

# Of a file: transparent pixels, more than 8 bits per channel, several frames, more
# than MAX_PIXELS, and damage that Pillow passes over with a warning.
Trait = Literal["alpha", "depth", "frames", "size", "damage"]

STRICT: frozenset[Trait] = frozenset(get_args(Trait))
LENIENT: frozenset[Trait] = frozenset()

# What is written, by suffix: Pillow's format name and its options.
_WRITERS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
# Largest side in pixels that a format can hold; x4 reaches these with photographs.
_MAX_SIDE = {"JPEG": 65535, "WEBP": 16383}

IMAGE_SUFFIXES = tuple(_WRITERS)

# A closed list, because some of Pillow's other readers start programs (EPS). GIF is
# here for its still images and for a clear message about the animated ones.
_READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

# Below Pillow's own warning (89 million), so that this limit comes first. At x4 the
# output of such an image has 1.3 billion pixels, 3.8 GB as uint8.
MAX_PIXELS = 80_000_000


class ImageError(ValueError):
    """An image file that cannot be used, in one line: its name, the fault, the cure.

    Attributes:
      reason: the line without the name.
    """

    def __init__(self, name: str | os.PathLike, reason: str):
        super().__init__(name, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}"


def read_image(path: str | os.PathLike, *, refuse: Set[Trait] = STRICT) -> Image:
    """Reads one image file.

    Palette, CMYK and other colour spaces become RGB; black and white becomes
    grayscale. Of a phone's multi-picture JPEG (MPO) the first picture, the
    photograph, is taken. An alpha channel that is opaque everywhere is dropped.
    Embedded colour profiles are kept and not applied. EXIF is that of JPEG, PNG and
    WebP files.

    Args:
      path: a PNG, JPEG, WebP, BMP, TIFF or still GIF, recognised by its content.
      refuse: traits that make a file unusable. If not refused, the first frame is
        taken and colours of 16 bits come as 8, which is as far as Pillow reads them.

    Returns:
      The image, with 8 bits per channel, or 16 in grayscale.

    Raises:
      ImageError: missing, a folder, empty, not an image, damaged, in floating point, or
        refused.
      MemoryError: it does not fit in memory.
    """
    with _errors_of(path):
        path = Path(path)
        if not path.exists():
            raise ImageError(path, "no such file; check the name")
        if path.is_dir():
            raise ImageError(path, "is a folder; name an image file")
        if path.stat().st_size == 0:
            raise ImageError(path, "is empty (0 bytes); copy the file again")
        return _read(path, path, refuse)


def decode_image(data: bytes, name: str, *, refuse: Set[Trait] = STRICT) -> Image:
    """Reads one image file's bytes; see `read_image`.

    Args:
      data: all bytes of the file.
      name: the file's, for errors.
      refuse: see `read_image`.
    """
    with _errors_of(name):
        return _read(io.BytesIO(data), name, refuse)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Reads the upright (width, height) in pixels from a file's header.

    Most formats pass if only their pixels are cut off.

    Raises:
      ImageError: missing, not an image, damaged, or in floating point.
    """
    with _errors_of(path), PIL.Image.open(path, formats=_READABLE_FORMATS) as image:
        _refuse_floats(path, image)
        width, height = image.size
        # Not image.getexif(): that of PNG decodes all pixels to look behind them.
        orientation = PIL.Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        # Pillow gives the size of a TIFF as it will be.
        if image.format != "TIFF" and orientation in (5, 6, 7, 8):
            return height, width
        return width, height


def write_image(
    path: str | os.PathLike,
    image: Image,
    *,
    keywords: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Writes one image file, whole or not at all; see `files.written_whole`.

    PNG, BMP and TIFF (deflate) lose nothing. JPEG is written at quality
    95 without chroma subsampling (4:4:4). WebP is written at quality 95, and its format
    subsamples to 4:2:0: choose PNG where each pixel matters.

    Args:
      path: the output; the suffix chooses the format, see IMAGE_SUFFIXES.
      image: opaque, of 8 bits; for its profile and EXIF see `metadata_options`.
      keywords: what the image shows, written into its EXIF as XPKeywords, which
        photo managers show as tags; not in BMP.
      overwrite: whether an existing file may be replaced.

    Raises:
      ImageError: unknown suffix, existing output without `overwrite`, an image
        too large for the format, or a folder that is missing or not writable.
      ValueError: transparent, or of 16 bits.
    """
    path = Path(path)
    if image.alpha is not None or image.depth != 8:
        raise ValueError("only opaque images of 8 bits can be written")
    check_output(path, overwrite=overwrite)
    image_format, options = _WRITERS[path.suffix.lower()]
    longest = max(image.pixels.shape[:2])
    if longest > _MAX_SIDE.get(image_format, longest):
        raise ImageError(
            path,
            f"{longest} pixels a side, but {image_format} ends at "
            f"{_MAX_SIDE[image_format]}; write .png instead",
        )
    options = options | metadata_options(image, keywords, image_format=image_format)
    # Pillow knows grayscale as (H, W).
    pixels = image.pixels if image.pixels.shape[2] == 3 else image.pixels[..., 0]
    try:
        with written_whole(path) as temporary:
            PIL.Image.fromarray(pixels).save(temporary, format=image_format, **options)
            _refuse_existing(path, overwrite)  # it may have appeared while encoding
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            path,
            f"cannot be written ({_text_of(error)}); "
            "check that the folder exists, is writable and has space",
        ) from error


def check_output(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Refuses what `write_image` would, as far as the name tells: before the work.

    Raises:
      ImageError: unknown suffix, a folder, or an existing file without `overwrite`.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise ImageError(
            path,
            f"cannot write {path.suffix or 'a file without suffix'}; "
            f"use one of {' '.join(IMAGE_SUFFIXES)}",
        )
    if path.is_dir():
        raise ImageError(path, "is a folder; name the output file")
    _refuse_existing(path, overwrite)


def find_images(path: str | os.PathLike, *, recursive: bool = False) -> list[Path]:
    """Lists the images that a file or folder name stands for.

    Args:
      path: a file, returned as it is whatever its suffix, or a folder, of which the
        files with one of IMAGE_SUFFIXES (any case) are taken. Hidden files and
        folders are left out: among them are the "._x.jpg" that macOS adds. Links to
        folders are not followed.
      recursive: whether folders inside the folder are searched too.

    Returns:
      At least one path, in order of name (of the path inside the folder).

    Raises:
      ImageError: nothing there, or a folder without images.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(path, "no such file or folder; check the name")
    found = [
        inside
        for inside in (
            file.relative_to(path) for file in path.glob("**/*" if recursive else "*")
        )
        if inside.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in inside.parts)
        # A link to nowhere is listed: reading it says so.
        and not (path / inside).is_dir()
    ]
    if not found:
        where = "in or below" if recursive else "in"
        raise ImageError(
            path,
            f"no images {where} this folder ({' '.join(IMAGE_SUFFIXES)}); "
            "name another, or the one inside that holds them",
        )
    return [path / inside for inside in sorted(found, key=lambda p: p.parts)]


@contextlib.contextmanager
def _errors_of(name: str | os.PathLike):
    """Turns whatever reading a file raises into an ImageError with its name."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(
            name,
            "is not an image that can be read here; "
            "give a PNG, JPEG, WebP, BMP or TIFF file",
        ) from error
    except (
        PIL.Image.DecompressionBombWarning,
        PIL.Image.DecompressionBombError,
    ) as error:
        raise ImageError(name, _too_many_pixels()) from error
    except FileNotFoundError as error:
        raise ImageError(name, "no such file; check the name") from error
    except PermissionError as error:
        raise ImageError(name, "may not be read; change its permissions") from error
    # Decoders raise almost anything on damaged bytes: OSError, SyntaxError,
    # struct.error, zlib.error, KeyError, OverflowError, ...
    except Exception as error:
        raise ImageError(
            name,
            f"cannot be decoded ({_text_of(error)}); "
            "the file may be damaged, save or copy it again",
        ) from error


def _read(
    file: Path | io.BytesIO, name: str | os.PathLike, refuse: Set[Trait]
) -> Image:
    with contextlib.ExitStack() as stack:
        if "damage" in refuse:
            # Pillow's warnings are about this file; deprecations are not. Filters are
            # the process's: threads, which training decodes in, must not change them.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        image = stack.enter_context(PIL.Image.open(file, formats=_READABLE_FORMATS))
        _check_header(name, image, refuse)
        image.load()
        return _convert(name, image, refuse)


def _check_header(
    name: str | os.PathLike, image: PIL.Image.Image, refuse: Set[Trait]
) -> None:
    if "size" in refuse and image.width * image.height > MAX_PIXELS:
        raise ImageError(name, _too_many_pixels())
    frames = getattr(image, "n_frames", 1)
    # MPO's further pictures are previews, depth or the other eye, not an animation.
    if "frames" in refuse and frames > 1 and image.format != "MPO":
        raise ImageError(name, f"holds {frames} frames; save the one you want as a PNG")
    if "depth" in refuse and _is_deeper_than_8_bits(image):
        raise ImageError(
            name,
            "has more than 8 bits per channel, which is not supported yet; "
            "save it as an 8-bit PNG",
        )
    _refuse_floats(name, image)


def _convert(
    name: str | os.PathLike, image: PIL.Image.Image, refuse: Set[Trait]
) -> Image:
    is_gray = image.mode in ("1", "L", "LA", "La")
    is_deep = image.mode.startswith("I")
    alpha = None
    if image.has_transparency_data and not is_deep:
        image = image.convert("RGBA")
        alpha = np.asarray(ImageOps.exif_transpose(image).getchannel("A"))
        if alpha.min() == 255:
            alpha = None
        elif "alpha" in refuse:
            raise ImageError(
                name,
                "has transparent pixels, and alpha is not supported yet; "
                "flatten it first",
            )
    image = ImageOps.exif_transpose(image)
    if is_deep:
        # Pillow's 32-bit "I" is also what 16-bit files open as.
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("integer pixels outside 0..65535")
        pixels = pixels.astype(np.uint16)[..., None]
    elif is_gray:
        pixels = np.asarray(image.convert("L"))[..., None]
    else:
        pixels = np.asarray(image.convert("RGB"))
    icc = profile_of(image, pixels.shape[2])
    return Image(pixels, alpha, icc, image.info.get("exif"))


def _is_deeper_than_8_bits(image: PIL.Image.Image) -> bool:
    """Tells whether decoding to 8 bits would lose depth; to be called before load()."""
    if image.mode.startswith(("I", "F")):
        return True
    # Pillow decodes 16-bit colour PNG and TIFF to 8 bits without a word; only the
    # raw mode of the undecoded data tells. (In a BMP "BGR;16" means 5-6-5 bits.)
    return image.format in ("PNG", "TIFF") and any(
        re.search(r";(16|32)", str(tile[3])) for tile in getattr(image, "tile", ())
    )


def _refuse_floats(name: str | os.PathLike, image: PIL.Image.Image) -> None:
    if image.mode == "F":
        raise ImageError(
            name, "has floating-point pixels, whose range is unknown; save 8-bit PNG"
        )


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise ImageError(path, "exists already; choose another name or --overwrite")


def _too_many_pixels() -> str:
    return (
        f"has more than {MAX_PIXELS // 1_000_000} million pixels, the limit here; "
        "crop or scale it down first"
    )


def _text_of(error: BaseException) -> str:
    """Returns an error's text on one line, without a file name we already give."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
