"""Reading and writing image files.

`read_image` turns every file into a `core.images.Image`, and its argument `refuse` says
what a caller will not accept: what an Image does not hold (WHOLE) or, for evaluation,
also what its 8-bit colours lose (STRICT); training and tagging only look at the colours
and refuse nothing (LENIENT).
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL.Image

from linearsr_jax.core.files import written_whole
from linearsr_jax.core.image_decoding import (
    as_image,
    convert_deep,
    convert_image,
    convert_tiff,
    orientation_of,
    refuse_floats,
)
from linearsr_jax.core.image_deep import PixelTypeError, is_deep
from linearsr_jax.core.image_encoding import encode_image
from linearsr_jax.core.image_formats import (
    READ_SUFFIXES,
    ImageError,
    format_of,
    missing_package,
    open_image,
)
from linearsr_jax.core.image_metadata import comment_of, has_room_for_comment
from linearsr_jax.core.images import Image
from linearsr_jax.core.raised_warnings import raising_warnings

_logger = logging.getLogger(__name__)

# Of a file: transparent pixels, more than 8 bits per channel, several frames, more
# pixels than the limit, and damage that the decoders pass over with a warning.
Trait = Literal["alpha", "depth", "frames", "size", "damage"]

STRICT: frozenset[Trait] = frozenset(get_args(Trait))
WHOLE: frozenset[Trait] = frozenset(("frames", "size", "damage"))
LENIENT: frozenset[Trait] = frozenset()

_TOO_MANY = "holds {} frames; save the one you want as a PNG"
_TOO_DEEP = "has more than 8 bits per channel; save it as an 8-bit PNG"
# Below Pillow's own warning (89 million), so that this limit comes first. At x4 the
# output of such an image has 1.3 billion pixels, 3.8 GB as uint8.
MAX_PIXELS = 80_000_000


def read_image(
    path: str | os.PathLike,
    *,
    refuse: Set[Trait] = WHOLE,
    max_pixels: int = MAX_PIXELS,
) -> Image:
    """Reads one image file.

    Palette and CMYK become RGB, CMYK by its profile if it has one; black and white
    becomes grayscale. Of a phone's multi-picture JPEG (MPO) the first picture, the
    photograph, is taken. An alpha channel that is opaque everywhere is dropped.
    Embedded colour profiles are kept and not applied.

    Args:
      path: a PNG, JPEG, WebP, BMP, TIFF, AVIF or still GIF, recognised by its content;
        HEIF and JPEG XL where the extra `formats` is installed.
      refuse: traits that make a file unusable. If several frames are not, the first is
        taken.
      max_pixels: the limit that the trait "size" is about.

    Returns:
      The image. PNG, TIFF, AVIF and HEIF of more than 8 bits per channel have 16;
      of colour JPEG XL 8 are read, with a warning unless nothing is refused.

    Raises:
      ImageError: missing, a folder, empty, not an image, damaged, in floating point, or
        refused.
      MemoryError: it does not fit in memory.
    """
    with _errors_of(path, max_pixels):
        path = _existing_file(path)
        return _read(path, path, refuse, max_pixels)


def decode_image(
    data: bytes,
    name: str,
    *,
    refuse: Set[Trait] = WHOLE,
    max_pixels: int = MAX_PIXELS,
) -> Image:
    """Reads one image file's bytes; see `read_image`.

    Args:
      data: all bytes of the file.
      name: the file's, for errors.
      refuse, max_pixels: see `read_image`.
    """
    with _errors_of(name, max_pixels):
        return _read(io.BytesIO(data), name, refuse, max_pixels)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Reads the upright (width, height) in pixels from a file's header.

    Most formats pass if only their pixels are cut off.

    Raises:
      ImageError: missing, not an image, damaged, or in floating point.
    """
    with _errors_of(path), open_image(_existing_file(path)) as image:
        refuse_floats(image)
        width, height = image.size
        # Pillow gives the size of a TIFF as it will be.
        if image.format != "TIFF" and orientation_of(image) >= 5:
            return height, width
        return width, height


def write_image(
    path: str | os.PathLike,
    image: Image | np.ndarray | PIL.Image.Image,
    *,
    keywords: Sequence[str] = (),
    comment: str | None = None,
    overwrite: bool = False,
    quality: int | None = None,
) -> None:
    """Writes one image file, whole or not at all; see `files.written_whole`.

    PNG, BMP and TIFF (deflate) lose nothing; PNG and TIFF hold 16 bits per channel,
    AVIF 12, and the others get 8. JPEG and AVIF are written without chroma subsampling
    (4:4:4); WebP subsamples to 4:2:0: choose PNG where each pixel matters. Profile,
    EXIF, XMP and resolution are written where the format has a place for them.

    Args:
      path: the output; the suffix chooses the format, see IMAGE_SUFFIXES.
      image: what to write, see `image_decoding.as_image`; its EXIF and XMP get its
        width and height.
      keywords: what the image shows, written into its EXIF as XPKeywords, which
        photo managers show as tags; not in BMP.
      comment: ASCII, read again by `read_comment`; see `holds_comment`.
      overwrite: whether an existing file may be replaced.
      quality: quality of lossy formats, 1 to 100; None is 95. Others ignore it.

    Raises:
      ImageError: unknown suffix, existing output without `overwrite`, an image of
        another type, too large for the format or with alpha that the format does not
        hold, or a folder that is missing or not writable.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    try:
        image = as_image(image)
    except (ValueError, OSError) as error:
        raise ImageError(path, f"the image {error}") from error
    form = format_of(path)
    longest = max(image.pixels.shape[:2])
    if longest > form.max_side:
        raise ImageError(
            path,
            f"{longest} pixels a side, but {form.name} ends at {form.max_side}; write "
            ".png instead",
        )
    if image.alpha is not None and not form.has_alpha:
        raise ImageError(
            path, f"{form.name} cannot hold transparent pixels; write .png instead"
        )
    try:
        with written_whole(path) as temporary:
            encode_image(
                temporary,
                form,
                image,
                keywords=keywords,
                comment=comment if holds_comment(path, image) else None,
                quality=quality,
                name=str(path),
            )
            _refuse_existing(path, overwrite)  # it may have appeared while encoding
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(
            path,
            f"cannot be written ({_text_of(error)}); "
            "check that the folder exists, is writable and has space",
        ) from error


def holds_comment(path: str | os.PathLike, image: Image) -> bool:
    """Tells whether `write_image` can write a comment; otherwise it leaves it out.

    BMP has no place for one, and one that a camera has written stays.
    """
    return has_room_for_comment(format_of(path).name, image)


def read_comment(path: str | os.PathLike) -> str | None:
    """Reads the comment that an image was written with; None if it has none.

    Raises:
      ImageError: missing, or not an image.
    """
    with _errors_of(path), open_image(_existing_file(path)) as image:
        return comment_of(image)


def _existing_file(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not path.exists():
        raise ImageError(path, "no such file; check the name")
    if path.is_dir():
        raise ImageError(path, "is a folder; name an image file")
    if not path.is_file():
        # Opening it would wait for somebody who writes into it.
        raise ImageError(path, "is a pipe or device; redirect it, and name it -")
    if path.stat().st_size == 0:
        raise ImageError(path, "is empty (0 bytes); copy the file again")
    return path


def check_output(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Refuses what `write_image` would, as far as the name tells: before the work.

    Raises:
      ImageError: unknown suffix, one whose package is not installed, a folder, or an
        existing file without `overwrite`.
    """
    path = Path(path)
    format_of(path)
    if path.is_dir():
        raise ImageError(path, "is a folder; name the output file")
    _refuse_existing(path, overwrite)


def check_output_is_free(path: str | os.PathLike) -> None:
    """Refuses to replace a file.

    Raises:
      ImageError: it exists.
    """
    _refuse_existing(Path(path), overwrite=False)


def find_images(path: str | os.PathLike, *, recursive: bool = False) -> list[Path]:
    """Lists the images that a file or folder name stands for.

    Args:
      path: a file, returned as it is whatever its suffix, or a folder, of which the
        files with one of READ_SUFFIXES (any case) are taken. Hidden files and
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
        if inside.suffix.lower() in READ_SUFFIXES
        and not any(part.startswith(".") for part in inside.parts)
        # A link to nowhere is listed: reading it says so.
        and not (path / inside).is_dir()
    ]
    if not found:
        where = "in or below" if recursive else "in"
        cure = "" if recursive else ", or the one inside that holds them"
        raise ImageError(
            path,
            f"no images {where} this folder ({' '.join(READ_SUFFIXES)}); "
            f"name another{cure}",
        )
    return [path / inside for inside in sorted(found, key=lambda p: p.parts)]


@contextlib.contextmanager
def _errors_of(name: str | os.PathLike, max_pixels: int = MAX_PIXELS):
    """Turns whatever reading a file raises into an ImageError with its name."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(
            name,
            missing_package(name)
            or "is not an image that can be read here; "
            "give a PNG, JPEG, WebP, BMP, TIFF or AVIF file",
        ) from error
    except (
        PIL.Image.DecompressionBombWarning,
        PIL.Image.DecompressionBombError,
    ) as error:
        raise ImageError(name, _too_many_pixels(max_pixels)) from error
    except FileNotFoundError as error:
        raise ImageError(name, "no such file; check the name") from error
    except PermissionError as error:
        raise ImageError(name, "may not be read; change its permissions") from error
    except PixelTypeError as error:
        raise ImageError(
            name, f"{error}; save it with 8 or 16 bits per channel"
        ) from error
    # Decoders raise almost anything on damaged bytes: OSError, SyntaxError,
    # struct.error, zlib.error, KeyError, OverflowError, ...
    except Exception as error:
        if "compression support is not configured" in str(error):
            reason = "is compressed in a way that is not read with 16 bits; use deflate"
            raise ImageError(name, reason) from error
        raise ImageError(
            name,
            f"cannot be decoded ({_text_of(error)}); "
            "the file may be damaged, save or copy it again",
        ) from error


def _read(
    file: Path | io.BytesIO,
    name: str | os.PathLike,
    refuse: Set[Trait],
    max_pixels: int,
) -> Image:
    if max_pixels > MAX_PIXELS:
        # Pillow's own limit is the process's. It stays: other threads read too.
        PIL.Image.MAX_IMAGE_PIXELS = max(PIL.Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    with contextlib.ExitStack() as stack:
        if "damage" in refuse:
            # Pillow's warnings are about this file; deprecations are not.
            bomb = PIL.Image.DecompressionBombWarning
            stack.enter_context(raising_warnings(UserWarning, bomb))
            # It is left out with a warning of ours; the pixels may be whole.
            warnings.filterwarnings("ignore", "(Corrupt|Truncated) EXIF", UserWarning)
        try:
            image = stack.enter_context(open_image(file))
        except PIL.UnidentifiedImageError:
            if not _is_tiff(file):
                raise
            return _read_tiff(file, name, refuse, max_pixels)
        if "size" in refuse and image.width * image.height > max_pixels:
            raise ImageError(name, _too_many_pixels(max_pixels))
        frames = getattr(image, "n_frames", 1)
        # MPO's further pictures are previews, depth or the other eye, no animation.
        if "frames" in refuse and frames > 1 and image.format != "MPO":
            raise ImageError(name, _TOO_MANY.format(frames))
        refuse_floats(image)
        has_more_bits = is_deep(file, image)
        if has_more_bits and "depth" in refuse:
            raise ImageError(name, _TOO_DEEP)
        if has_more_bits and image.format in ("PNG", "TIFF", "AVIF", "HEIF"):
            read = convert_deep(file, image, accept_damage="damage" not in refuse)
        else:
            read = convert_image(image)
            if has_more_bits and read.depth == 8 and refuse:
                _logger.warning(
                    "%s: has more than 8 bits per channel, of which %s gives 8; a "
                    "16-bit PNG or TIFF keeps them",
                    name,
                    image.format,
                )
    return _refuse_alpha(name, read, refuse)


def _read_tiff(file, name, refuse, max_pixels):
    try:
        read = convert_tiff(
            file, accept_damage="damage" not in refuse, max_pixels=max_pixels
        )
    except OverflowError as error:
        raise ImageError(name, _too_many_pixels(max_pixels)) from error
    if read.pages > 1 and "frames" in refuse:
        raise ImageError(name, _TOO_MANY.format(read.pages))
    read = read.image
    if read.depth > 8 and "depth" in refuse:
        raise ImageError(name, _TOO_DEEP)
    return _refuse_alpha(name, read, refuse)


def _is_tiff(file: Path | io.BytesIO) -> bool:
    if isinstance(file, io.BytesIO):
        start = file.getvalue()[:4]
    else:
        with file.open("rb") as opened:
            start = opened.read(4)
    return start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _refuse_alpha(name: str | os.PathLike, read: Image, refuse: Set[Trait]) -> Image:
    if read.alpha is not None and "alpha" in refuse:
        raise ImageError(name, "has transparent pixels; flatten it first")
    return read


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise ImageError(
            path, "exists already; choose another name, or overwrite (--overwrite)"
        )


def _too_many_pixels(limit: int) -> str:
    return (
        f"has more than {limit / 1e6:g} million pixels, the limit here; "
        "max_pixels (--max-pixels) raises it"
    )


def _text_of(error: BaseException) -> str:
    """Returns an error's text on one line, without a file name we already give."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
