"""Packs the photographs of a folder into one file, and can shrink them."""

import dataclasses
import io
import pathlib
from collections.abc import Iterable, Iterator

from PIL import Image

from linearsr_jax.core.image_io import LENIENT, decode_image
from linearsr_jax.data.checking import Photo, check_photos
from linearsr_jax.data.folder import FolderStore
from linearsr_jax.data.packed import write_packed

# For shrunk photographs. Above this quality, files grow faster than they improve.
_JPEG_QUALITY = 95


def pack_folder(
    root: pathlib.Path,
    path: pathlib.Path,
    *,
    max_side: int | None = None,
    overwrite: bool = False,
) -> tuple[int, dict[str, str]]:
    """Packs the photographs of a folder into one file; see `packed`.

    Args:
      root: folder of photographs, searched recursively.
      path: file to write.
      max_side: largest side in pixels; larger photographs are reduced to it (Lanczos)
        and stored as JPEG. By default all are stored as they are.
      overwrite: whether to replace an existing file.

    Returns:
      The number of photographs packed, and the reason for each one left out, by name.

    Raises:
      FileExistsError: path exists, and overwrite is False.
      OSError, ValueError: the folder cannot be used, there is nothing to pack, or path
        cannot be written.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists; --overwrite replaces it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; make it first.")
    rejected = {}
    photos = check_photos(FolderStore(root), rejected)
    if max_side is not None:
        photos = _shrink(photos, max_side)
    return write_packed(path, photos), rejected


def _shrink(photos: Iterable[Photo], max_side: int) -> Iterator[Photo]:
    for photo in photos:
        ratio = max_side / max(photo.width, photo.height)
        if ratio >= 1:
            yield photo
            continue
        size = [max(1, round(side * ratio)) for side in (photo.width, photo.height)]
        image = Image.fromarray(
            decode_image(photo.data, photo.file, refuse=LENIENT).rgb
        )
        data = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(
            data, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4"
        )
        yield dataclasses.replace(
            photo, width=size[0], height=size[1], data=data.getvalue()
        )
