"""Tags image files: one by one, or a whole folder into a cache."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linearsr_jax.core import image_io
from linearsr_jax.tagging import Tagger
from linearsr_jax.tagging.cache import fill_tag_cache

_logger = logging.getLogger(__name__)


def find_files(inputs: Sequence[Path], *, recursive: bool) -> tuple[list[Path], int]:
    """Lists the images that files and folders stand for, without repetition.

    Logs an input that is missing, or a folder without images, and goes on.

    Args:
      inputs: image files and folders.
      recursive: whether to search folders inside folders.

    Returns:
      The images, and the number of inputs that have failed.
    """
    found: dict[Path, None] = {}
    failures = 0
    for given in inputs:
        try:
            found |= dict.fromkeys(image_io.find_images(given, recursive=recursive))
        except image_io.ImageError as error:
            is_deeper = given.is_dir() and not recursive
            cure = ", or add --recursive" if is_deeper else ""
            _logger.error("linearsr: %s%s", error, cure)
            failures += 1
    return list(found), failures


def tag_files(
    tagger: Tagger,
    files: Sequence[Path],
    progress: Callable[[Iterable], Iterable] = iter,
) -> Iterator[tuple[Path, list[tuple[str, float]] | None]]:
    """Tags files; logs a file that cannot be read and continues with the others.

    Args:
      tagger: tagger for all files.
      files: image files.
      progress: wraps the files, to show progress.

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
    """Writes the tags of all images in a folder and its subfolders to a cache.

    Args:
      tagger: tagger for all images.
      folder: folder of images, the same that training will be given.
      cache: file to write; see `fill_tag_cache`.
      is_lr: whether the tagger sees the images reduced by 4, as the model will.
      progress: wraps the files, to show progress.

    Yields:
      Each file with its tags, as `tag_files` does. Tags in the cache are kept.

    Raises:
      image_io.ImageError: the folder is missing or has no images.
      TagCacheError: the cache has other images or another tagger, or is damaged.
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
        return image_io.read_image(path, refuse=image_io.LENIENT).rgb
    except image_io.ImageError as error:
        _logger.error("linearsr: %s", error)
        return None


def report(
    found: Iterable[tuple[Path, list[tuple[str, float]] | None]], *, is_printed: bool
) -> tuple[list[dict[str, Any]], int]:
    """Runs `tag_files` or `tag_folder` to the end.

    Args:
      found: iterator of one of the two.
      is_printed: whether to print a line per file to standard output.

    Returns:
      The tagged files in the form that --json prints, and the number of failures.
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
