"""Keeps the tags of a folder's images in a file, so that training can read them.

The file has one JSON object per line and image: "file" (path inside the folder),
"sha256" of the bytes, "tagger" and "version" (see `base.Tagger`), "input" ("hr": the
image as it is; "lr": reduced by 4, as the model sees it) and "tags", a list of
[tag, score], best first.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.files import sha256, write_text
from linearsr_jax.core.scale import SCALE
from linearsr_jax.tagging.base import Tagger
from linearsr_jax.tagging.resizing import reduce
from linearsr_jax.tagging.vocabulary import TagError, tag_indices

Input = Literal["hr", "lr"]

_DIGITS = 4


class TagCacheError(LinearSRError):
    """Raised for a cache that cannot be used; one line that says what to do."""


class Origin(NamedTuple):
    """The origin of tags; the same for all lines of a cache."""

    tagger: str
    version: str
    input: Input


class Entry(NamedTuple):
    """One line of a cache.

    Attributes:
      file: path of the image inside the folder, with forward slashes.
      sha256: SHA-256 of the bytes of the image, hexadecimal.
      origin: tagger, version and input that the tags come from.
      tags: tags with scores, best first.
    """

    file: str
    sha256: str
    origin: Origin
    tags: list[tuple[str, float]]


def load_tag_cache(path: str | os.PathLike) -> dict[str, list[str]]:
    """Reads a cache.

    Args:
      path: file written by `linearsr tag DIR --cache`.

    Returns:
      The tags of each image, best first, by the path of the image inside DIR.

    Raises:
      TagCacheError: the file is missing, damaged, not a cache, or mixes taggers.
    """
    path = Path(path)
    entries = _read(path)
    origins = {entry.origin for entry in entries.values()}
    if len(origins) > 1:
        raise TagCacheError(
            f"{path}: mixes several taggers: {sorted(origins)}; make it anew"
        )
    return {
        file: [tag for tag, _ in entry.tags] for file, entry in sorted(entries.items())
    }


def fill_tag_cache(
    path: Path,
    tagger: Tagger,
    folder: Path,
    files: Sequence[str],
    read: Callable[[Path], np.ndarray | None],
    *,
    input: Input = "hr",
    progress: Callable[[Iterable], Iterable] = iter,
) -> Iterator[tuple[str, Entry | None]]:
    """Tags the images that a cache lacks, and writes the cache.

    Finished lines are kept in PATH.part until all are there, so a run that is stopped
    can continue, and the file at `path` is always whole. Run the iterator to its end.

    Args:
      path: the cache; created, or completed if it has these images and this tagger.
      tagger: tagger for all lines.
      folder: folder that contains the files.
      files: paths of the images inside the folder.
      read: function from a path to the image, uint8 (H, W, 3), or to None if it cannot
        be read. Such an image gets no line and is tried again next time.
      input: whether the tagger sees the image as it is or reduced by 4.
      progress: wraps the files, to show progress.

    Yields:
      Each file with its entry, or with None if it could not be read.

    Raises:
      TagCacheError: the cache has other images or another tagger, is damaged, or
        cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    origin = Origin(tagger.name, tagger.version, input)
    entries = _read(path) if path.exists() else {}
    if part.exists():
        entries |= _read(part, is_part=True)
    _check_same(path, entries, origin, folder, files)
    _write(part, entries)
    with part.open("a", encoding="utf-8") as lines:
        for file in progress(files):
            if file not in entries and (image := read(folder / file)) is not None:
                if input == "lr":
                    image = reduce(image, SCALE)
                tags = [(tag, round(score, _DIGITS)) for tag, score in tagger(image)]
                entry = Entry(file, sha256(folder / file), origin, tags)
                entries[file] = entry
                lines.write(_to_line(entry))
                lines.flush()
            yield file, entries.get(file)
    _write(path, entries)
    part.unlink()


def _check_same(
    path: Path,
    entries: Mapping[str, Entry],
    origin: Origin,
    folder: Path,
    files: Sequence[str],
) -> None:
    cure = "choose another --cache, or remove this one and its .part"
    known = set(files)
    for file, entry in entries.items():
        if entry.origin != origin:
            raise TagCacheError(
                f"{path}: made by {' '.join(entry.origin)}, not {' '.join(origin)}; "
                f"{cure}"
            )
        if file not in known:
            raise TagCacheError(
                f"{path}: has other images: {file} is not in {folder}; {cure}"
            )
        if entry.sha256 != sha256(folder / file):
            raise TagCacheError(
                f"{path}: {folder / file} has changed since it was tagged; {cure}"
            )


def _read(path: Path, *, is_part: bool = False) -> dict[str, Entry]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TagCacheError(f"{path}: cannot be read: {error}") from error
    # A .part may end within a line, where its writer was stopped.
    if lines.pop() and not is_part:
        raise TagCacheError(f"{path}: is cut off; make it anew")
    entries = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = _from_line(line)
        except (ValueError, KeyError, TypeError) as error:
            raise TagCacheError(
                f"{path}, line {number}: not a line of a tag cache "
                f"({type(error).__name__}: {error}); make it with linearsr tag --cache"
            ) from error
        if entry.file in entries:
            raise TagCacheError(
                f"{path}, line {number}: repeats {entry.file}; make it anew"
            )
        entries[entry.file] = entry
    return entries


def _write(path: Path, entries: Mapping[str, Entry]) -> None:
    """Writes all lines sorted by file name, whole or not at all."""
    try:
        write_text(path, "".join(_to_line(e) for _, e in sorted(entries.items())))
    except OSError as error:
        raise TagCacheError(
            f"{path}: cannot be written ({error.strerror}); check that its folder "
            "exists, is writable and has space"
        ) from error


def _to_line(entry: Entry) -> str:
    fields = {"file": entry.file, "sha256": entry.sha256, **entry.origin._asdict()}
    return json.dumps({**fields, "tags": entry.tags}) + "\n"


def _from_line(line: str) -> Entry:
    fields: dict[str, Any] = json.loads(line)
    texts = [fields[name] for name in ("file", "sha256", *Origin._fields)]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("file, sha256, tagger, version and input must be text")
    tags = [(tag, float(score)) for tag, score in fields["tags"]]
    try:
        tag_indices([tag for tag, _ in tags])
    except TagError as error:
        raise ValueError(str(error)) from error
    if not all(0 <= score <= 1 for _, score in tags):
        raise ValueError("scores must be in [0, 1]")
    return Entry(texts[0], texts[1], Origin(*texts[2:]), tags)
