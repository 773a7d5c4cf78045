"""Tagging image files: one after another, or a folder's into a cache."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linearsr_jax.core import image_io
from linearsr_jax.tagging import Tagger
from linearsr_jax.tagging.cache import fill_tag_cache

_logger = logging.getLogger(__name__)


def find_files(inputs: Sequence[Path], *, recursive: bool) -> list[Path]:
    """The images that files and folders stand for, each once.

    Raises:
      image_io.ImageError: a missing input, or a folder without images.
    """
    found = (image_io.find_images(given, recursive=recursive) for given in inputs)
    return list(dict.fromkeys(path for paths in found for path in paths))


def tag_files(
    tagger: Tagger,
    files: Sequence[Path],
    progress: Callable[[Iterable], Iterable] = iter,
) -> Iterator[tuple[Path, list[tuple[str, float]] | None]]:
    """Tags files; a failure is reported and the others are still tagged.

    Args:
      tagger: of all.
      files: image files.
      progress: wraps the files, to show how far it is.

    Yields:
      Each file with its tags, or with None if it could not be read.
    """
    for path in progress(files):
        image = _read(path)
        yield path, None if image is None else tagger(image)


def tag_folder(
    tagger: Tagger,
    folder: Path,
    cache: Path,
    *,
    is_lr: bool,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Iterator[tuple[Path, list[tuple[str, float]] | None]]:
    """Writes the tags of a folder's images, subfolders included, to a cache.

    Args:
      tagger: of all.
      folder: of images, as training is given it.
      cache: see `fill_tag_cache`.
      is_lr: whether the tagger sees the images reduced, as the model will.
      progress: wraps the files, to show how far it is.

    Yields:
      As `tag_files`. Tags that the cache had are not found anew.

    Raises:
      image_io.ImageError: no such folder, or no images in it.
      TagCacheError: the cache is of other images or another tagger, or damaged.
    """
    found = image_io.find_images(folder, recursive=True)
    files = [path.relative_to(folder).as_posix() for path in found]

    filled = fill_tag_cache(
        cache,
        tagger,
        folder,
        files,
        _read,
        input="lr" if is_lr else "hr",
        progress=progress,
    )
    for file, entry in filled:
        yield folder / file, None if entry is None else entry.tags


def _read(path: Path) -> np.ndarray | None:
    try:
        return image_io.read_image(path).pixels
    except image_io.ImageError as error:
        _logger.error("linearsr: %s", error)
        return None


def report(
    found: Iterable[tuple[Path, list[tuple[str, float]] | None]], *, is_printed: bool
) -> tuple[list[dict[str, Any]], int]:
    """Runs `tag_files` or `tag_folder`.

    Args:
      found: what they yield.
      is_printed: whether each file's tags go to standard output, a line a file.

    Returns:
      The tagged files, as --json prints them, and the number of failures.
    """
    images, failures = [], 0
    for path, tags in found:
        if tags is None:
            failures += 1
            continue
        rounded = [[tag, round(score, 4)] for tag, score in tags]
        images.append({"file": str(path), "tags": rounded})
        if is_printed:
            shown = ", ".join(f"{tag} {score:.2f}" for tag, score in tags)
            print(f"{path}: {shown or '-'}", flush=True)
    total = failures + len(images)
    if failures and total > 1:
        _logger.error("linearsr: %d of %d images failed", failures, total)
    return images, failures
