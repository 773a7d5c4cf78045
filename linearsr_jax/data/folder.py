"""Reads photographs from a folder, searched recursively, with the tags beside it."""

import concurrent.futures
import json
import os
import pathlib

from linearsr_jax.core.image_io import ImageError, find_images, read_size
from linearsr_jax.data.manifest import Manifest, make_manifest

TAGS_FILE = "photos.jsonl"


class FolderStore:
    """Photographs as files of a folder; see `sources.PhotoStore`.

    Files and folders whose names start with a dot are skipped; links to folders
    are not followed.

    Attributes:
      tags: tags by name, from photos.jsonl in the folder or the one above it, which
        has one JSON object per line with "file" (relative to photos.jsonl) and "tags".

    Raises:
      FileNotFoundError: root does not exist.
      NotADirectoryError: root is a file.
      ValueError: photos.jsonl is malformed.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(os.path.abspath(root))
        if not self.root.exists():
            raise FileNotFoundError(f"{root}: no such folder; check the path.")
        if not self.root.is_dir():
            raise NotADirectoryError(
                f"{root}: is a file; give the folder that contains the images."
            )
        self.tags = read_tags(self.root)

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        """Returns the file's bytes; see `sources.PhotoStore`."""
        return (self.root / name).read_bytes()

    def list_names(self) -> list[str]:
        """Returns the names of all files that may be images, sorted.

        Raises:
          ImageError: there are none.
        """
        found = find_images(self.root, recursive=True)
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def scan(self, *, min_size: int) -> Manifest:
        """Makes the manifest from the file headers; see `sources.PhotoStore`."""
        names = self.list_names()
        # Threads hide the latency of slow file systems.
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            found = dict(zip(names, pool.map(self._inspect, names), strict=True))
        return make_manifest(str(self.root), found, min_size)

    def _inspect(self, name: str) -> tuple[int, int] | str:
        """Returns (width, height), or why the file cannot be used."""
        try:
            return read_size(self.root / name)
        except ImageError as error:
            return error.reason


def read_tags(root: pathlib.Path) -> dict[str, tuple[str, ...]]:
    """Reads the tags of the photographs under `root`; see `FolderStore`."""
    for folder, prefix in ((root, ""), (root.parent, f"{root.name}/")):
        path = folder / TAGS_FILE
        if path.is_file():
            tags = _parse_tags(path)
            return {
                name.removeprefix(prefix): words
                for name, words in tags.items()
                if name.startswith(prefix)
            }
    return {}


def _parse_tags(path: pathlib.Path) -> dict[str, tuple[str, ...]]:
    tags = {}
    lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            photo = json.loads(line)
            name, words = photo["file"], photo.get("tags", [])
            if not isinstance(words, list) or not all(
                isinstance(word, str) for word in [name, *words]
            ):
                raise TypeError("file must be a string, tags a list of strings")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}, line {number}: expected {{"file": "a.jpg", "tags": '
                f'["rose", "leaf"]}} ({type(error).__name__}: {error})'
            ) from error
        tags[name] = tuple(words)
    return tags
