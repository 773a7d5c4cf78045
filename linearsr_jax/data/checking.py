"""Photographs of a folder, each decoded once: what goes into prepared forms."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from linearsr_jax.data import decoding
from linearsr_jax.data.folder import FolderStore


@dataclasses.dataclass(frozen=True)
class Photo:
    """One photograph and what is known of it.

    Attributes:
      file: its name; see `Manifest.files`.
      width, height: in pixels, after EXIF orientation.
      tags: words for what it shows.
      data: the image file's bytes.
    """

    file: str
    width: int
    height: int
    tags: tuple[str, ...]
    data: bytes

    def entry(self) -> dict[str, Any]:
        """The line about it in an index: everything but the bytes."""
        return {
            "file": self.file,
            "width": self.width,
            "height": self.height,
            "tags": list(self.tags),
        }


def check_photos(store: FolderStore, rejected: dict[str, str]) -> Iterator[Photo]:
    """Decodes every file of a folder, and yields those that can be, by name.

    Takes about 30 ms per megapixel and CPU.

    Args:
      store: the folder.
      rejected: gets the name of, and the reason against, each of the others.

    Raises:
      OSError: a file exists but cannot be read just now.
    """
    names = store.list_names()
    threads = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # In blocks: what is read ahead of the consumer stays small.
        for start in range(0, len(names), 4 * threads):
            block = names[start : start + 4 * threads]
            # Pillow's decoders release the GIL.
            for name, result in zip(
                block, pool.map(lambda name: _check(store, name), block), strict=True
            ):
                if isinstance(result, str):
                    rejected[name] = result
                else:
                    yield result


def _check(store: FolderStore, name: str) -> Photo | str:
    try:
        data = store.read(name)
    except (FileNotFoundError, PermissionError) as error:
        return decoding.describe(error)
    try:
        height, width = decoding.decode_rgb(data).shape[:2]
    except MemoryError:
        raise
    except Exception as error:
        # An open set, as in FolderStore.scan.
        return decoding.describe(error)
    return Photo(name, width, height, store.tags.get(name, ()), data)
