"""Tags of a folder's images in a file, so that training need not find them anew.

A JSON object a line, for each image: "file" (its path inside the folder), "sha256" of
its bytes, "tagger" and "version" (see `base.Tagger`), "input" ("hr": the image as it
is; "lr": reduced by 4, as the model gets to see it) and "tags", a list of
[tag, score], the best first.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from linearsr_jax.core.files import sha256, write_text
from linearsr_jax.tagging.base import Tagger
from linearsr_jax.tagging.resizing import reduce
from linearsr_jax.tagging.vocabulary import TagError, tag_indices

Input = Literal["hr", "lr"]

_LR_FACTOR = 4
_DIGITS = 4


class TagCacheError(Exception):
    """A cache that cannot be used; one line, says what to do."""


class Origin(NamedTuple):
    """What the tags of a cache come from; all lines have the same."""

    tagger: str
    version: str
    input: Input


class Entry(NamedTuple):
    """A line.

    Attributes:
      file: the image's path inside the folder, with slashes.
      sha256: of its bytes.
      origin: of the tags.
      tags: with scores, the best first.
    """

    file: str
    sha256: str
    origin: Origin
    tags: list[tuple[str, float]]


def load_tag_cache(path: str | os.PathLike) -> dict[str, list[str]]:
    """Reads a cache.

    Args:
      path: written by `linearsr tag DIR --cache`.

    Returns:
      The tags of each image, the best first; images by their path inside DIR.

    Raises:
      TagCacheError: missing, damaged, not a cache, or of several taggers.
    """
    path = Path(path)
    entries = _read(path)
    origins = {entry.origin for entry in entries.values()}
    if len(origins) > 1:
        raise TagCacheError(f"{path}: of several taggers: {sorted(origins)}; make anew")
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
    """Tags the images that a cache lacks, and writes it.

    What is done is kept in PATH.part until all is: a run that is stopped goes on
    where it was, and a file at `path` is always whole. Run the iterator to its end.

    Args:
      path: the cache; made, or completed if it is of these images and this tagger.
      tagger: of all its lines.
      folder: that the files lie in.
      files: the images, by their paths inside the folder.
      read: path -> image, uint8 (H, W, 3), or None if it cannot be read: then it has
        no line, and is tried again another time.
      input: what the tagger gets to see.
      progress: wraps the files, to show how far it is.

    Yields:
      Each file with its entry, or None.

    Raises:
      TagCacheError: the cache is of other images or another tagger, damaged, or
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
                    image = reduce(image, _LR_FACTOR)
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
    cure = "name another cache, or remove this one and its .part"
    known = set(files)
    for file, entry in entries.items():
        if entry.origin != origin:
            raise TagCacheError(
                f"{path}: is of {' '.join(entry.origin)}, not of {' '.join(origin)}; "
                f"{cure}"
            )
        if file not in known:
            raise TagCacheError(
                f"{path}: is of other images: {file} is not in {folder}; {cure}"
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
    # A part may end within a line: there its writer was stopped.
    if lines.pop() and not is_part:
        raise TagCacheError(f"{path}: is cut off; make it anew")
    entries = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = _from_line(line)
        except (ValueError, KeyError, TypeError) as error:
            raise TagCacheError(
                f"{path}, line {number}: not of a tag cache "
                f"({type(error).__name__}: {error}); make it with linearsr tag --cache"
            ) from error
        if entry.file in entries:
            raise TagCacheError(f"{path}, line {number}: {entry.file} a second time")
        entries[entry.file] = entry
    return entries


def _write(path: Path, entries: Mapping[str, Entry]) -> None:
    """Writes all lines in the order of the files' names, whole or not at all."""
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
