"""Reading and writing image files: nothing else in the package touches them.

This stage handles 8-bit RGB and grayscale. What it cannot carry through without
loss (transparency, 16 bits, several frames) is refused with a message that says
what to do, never dropped in silence. Colour profiles and EXIF other than the
orientation are not carried over yet. numpy and Pillow only; no JAX here.
"""

import contextlib
import os
import re
import secrets
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Mode = Literal["RGB", "L"]

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

# Of Windows, and understood by others: UTF-16 separated by semicolons.
_XP_KEYWORDS = 0x9C9E

# A closed list, because some of Pillow's other readers start programs (EPS). GIF
# is here for its still images and for a clear message about the animated ones.
_READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

# Below Pillow's own warning (89 million), so one limit holds and it is ours. At x4
# the output of such an image has 1.3 billion pixels, 3.8 GB as uint8.
MAX_PIXELS = 80_000_000


class ImageError(Exception):
    """An image file cannot be used; one line naming the file, the fault, the cure."""


@dataclass(frozen=True)
class LoadedImage:
    """An image as the models take it.

    Attributes:
        pixels: uint8 (H, W, 3), RGB, in 0..255, upright (EXIF orientation applied).
            A grayscale file has three equal channels.
        mode: what the file was, to be handed to `write_image`: "L" for grayscale,
            otherwise "RGB".
    """

    pixels: np.ndarray
    mode: Mode


def read_image(path: str | os.PathLike) -> LoadedImage:
    """Reads one image file.

    Palette, CMYK and other colour spaces become RGB; black-and-white becomes
    grayscale; an alpha channel that is opaque everywhere is dropped. Of a phone's
    multi-picture JPEG (MPO) the first picture, the photograph, is taken.

    Args:
        path: a PNG, JPEG, WebP, BMP, TIFF or still GIF, told by content, not suffix.

    Returns:
        The image; see `LoadedImage` for shape and range.

    Raises:
        ImageError: missing, a folder, empty, not an image, damaged (also where
            Pillow would only warn), more than MAX_PIXELS, transparent, more than
            8 bits per channel, or more than one frame.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise ImageError(f"{path}: no such file; check the name")
        if path.is_dir():
            raise ImageError(f"{path}: is a folder; name an image file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: is empty (0 bytes); copy the file again")
        # Pillow's warnings are about this file; the filters last for this block
        # only. Deprecations are not about the file and stay what they are.
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_READABLE_FORMATS) as image:
                return _load(path, image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: is not an image that can be read here; "
            "give a PNG, JPEG, WebP, BMP or TIFF file"
        ) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(_too_many_pixels(path)) from error
    except PermissionError as error:
        raise ImageError(f"{path}: may not be read; change its permissions") from error
    # Decoders raise almost anything on damaged bytes: OSError, SyntaxError,
    # struct.error, zlib.error, KeyError, OverflowError, MemoryError, ...
    except Exception as error:
        raise ImageError(
            f"{path}: cannot be decoded ({_reason(error)}); "
            "the file may be damaged, save or copy it again"
        ) from error


def write_image(
    path: str | os.PathLike,
    pixels: np.ndarray,
    mode: Mode,
    *,
    keywords: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Writes one image file, whole or not at all.

    The bytes go to a temporary name in the same folder, are synced to the disk and
    renamed; on any failure the temporary file is removed and an existing output is
    as it was. PNG, BMP and TIFF (deflate) lose nothing. JPEG is written at quality
    95 without chroma subsampling (4:4:4). WebP is written lossy at quality 95,
    which its format subsamples to 4:2:0: take PNG where each pixel matters.

    Args:
        path: the output; the suffix chooses the format, see IMAGE_SUFFIXES.
        pixels: uint8 (H, W, 3), RGB, in 0..255.
        mode: "RGB", or "L" to write one channel: the luma 0.299 R + 0.587 G +
            0.114 B, which is the common value where the three are equal.
        keywords: what the image shows, written into its EXIF as XPKeywords, which
            photo managers show as tags. BMP has no place for them.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageError: unknown suffix, existing output without `overwrite`, an image
            too large for the format, or a folder that is missing or not writable.
        ValueError: `pixels` or `mode` is not as said above.
    """
    path = Path(path)
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}"
        )
    if 0 in pixels.shape:
        raise ValueError(f"pixels must not be empty, got {pixels.shape}")
    if mode not in ("RGB", "L"):
        raise ValueError(f'mode must be "RGB" or "L", got {mode!r}')
    check_output(path, overwrite=overwrite)
    image_format, options = _WRITERS[path.suffix.lower()]
    if keywords and image_format != "BMP":
        exif = Image.Exif()
        exif[_XP_KEYWORDS] = ";".join(keywords).encode("utf-16-le") + b"\0\0"
        options = {**options, "exif": exif}
    longest = max(pixels.shape[:2])
    if longest > _MAX_SIDE.get(image_format, longest):
        raise ImageError(
            f"{path}: {longest} pixels a side, but {image_format} ends at "
            f"{_MAX_SIDE[image_format]}; write .png instead"
        )
    image = Image.fromarray(pixels)
    if mode == "L":
        image = image.convert("L")
    # Short and hidden: the output's own name may already be as long as names get.
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        # "x" creates with the user's usual permissions, which mkstemp would not.
        with open(temporary, "xb") as file:
            image.save(file, format=image_format, **options)
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(path, overwrite)  # it may have appeared while encoding
        os.replace(temporary, path)
    except BaseException as error:  # also Ctrl-C: nothing half-written stays
        # The folder itself may be what is missing, or not a folder at all.
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, ImageError) or not isinstance(error, Exception):
            raise
        raise ImageError(
            f"{path}: cannot be written ({_reason(error)}); "
            "check that the folder exists, is writable and has space"
        ) from error


def check_output(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Refuses what `write_image` would, as far as the name tells: before the work.

    Raises:
        ImageError: unknown suffix, a folder, or an existing file without `overwrite`.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise ImageError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; "
            f"use one of {' '.join(IMAGE_SUFFIXES)}"
        )
    if path.is_dir():
        raise ImageError(f"{path}: is a folder; name the output file")
    _refuse_existing(path, overwrite)


def find_images(path: str | os.PathLike, *, recursive: bool = False) -> list[Path]:
    """Lists the images that a file or folder name stands for.

    Args:
        path: a file, returned as it is whatever its suffix, or a folder, of which
            the files with one of IMAGE_SUFFIXES (any case) are taken. Hidden files
            and folders are left out: among them are the "._x.jpg" that macOS adds.
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
        raise ImageError(f"{path}: no such file or folder; check the name")
    found = [
        inside
        for inside in (
            file.relative_to(path) for file in path.glob("**/*" if recursive else "*")
        )
        if inside.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in inside.parts)
        and (path / inside).is_file()
    ]
    if not found:
        where = "in or below" if recursive else "in"
        raise ImageError(
            f"{path}: no images {where} this folder ({' '.join(IMAGE_SUFFIXES)}); "
            "name another, or the one inside that holds them"
        )
    return [path / inside for inside in sorted(found, key=lambda p: p.parts)]


def _load(path: Path, image: Image.Image) -> LoadedImage:
    """Checks and decodes an opened image; faults of the file raise anything."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_many_pixels(path))
    frames = getattr(image, "n_frames", 1)
    # MPO's further pictures are previews, depth or the other eye, not an animation.
    if frames > 1 and image.format != "MPO":
        raise ImageError(
            f"{path}: holds {frames} frames; save the one you want as a PNG"
        )
    if _is_deeper_than_8_bits(image):
        raise ImageError(
            f"{path}: has more than 8 bits per channel, which is not supported yet; "
            "save it as an 8-bit PNG"
        )
    mode: Mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    image.load()
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        if with_alpha.getchannel("A").getextrema()[0] < 255:
            raise ImageError(
                f"{path}: has transparent pixels, and alpha is not supported yet; "
                "flatten it first"
            )
        upright = ImageOps.exif_transpose(with_alpha)
    else:
        upright = ImageOps.exif_transpose(image)
    # Through L, black-and-white and grayscale get three equal channels.
    pixels = np.asarray(upright.convert(mode).convert("RGB"))
    return LoadedImage(pixels=pixels, mode=mode)


def _is_deeper_than_8_bits(image: Image.Image) -> bool:
    """Whether decoding to 8 bits would lose depth. To be called before load()."""
    if image.mode.startswith(("I", "F")):
        return True
    # Pillow decodes 16-bit colour PNG and TIFF to 8 bits without a word; only the
    # raw mode of the undecoded data tells. (In a BMP "BGR;16" means 5-6-5 bits.)
    return image.format in ("PNG", "TIFF") and any(
        re.search(r";(16|32)", str(tile[3])) for tile in image.tile
    )


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise ImageError(f"{path}: exists already; choose another name or --overwrite")


def _too_many_pixels(path: Path) -> str:
    return (
        f"{path}: has more than {MAX_PIXELS // 1_000_000} million pixels, the limit "
        "here; crop or scale it down first"
    )


def _reason(error: BaseException) -> str:
    """The error's text on one line, without a file name we already give."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
