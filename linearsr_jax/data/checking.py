"""Decodes every photograph of a folder once, before it is stored in another form."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from linearsr_jax.core.image_io import LENIENT, ImageError, decode_image
from linearsr_jax.data.folder import FolderStore
from linearsr_jax.data.manifest import describe


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photograph as bytes, with its facts.

    Attributes:
      file: name; see `Manifest.files`.
      width, height: size in pixels, after EXIF orientation.
      tags: words for what the photograph shows.
      data: the image file's bytes.
    """

    file: str
    width: int
    height: int
    tags: tuple[str, ...]
    data: bytes

    def entry(self) -> dict[str, Any]:
        """Returns the photograph's entry in an index: everything but the bytes."""
        return {
            "file": self.file,
            "width": self.width,
            "height": self.height,
            "tags": list(self.tags),
        }


def check_photos(store: FolderStore, rejected: dict[str, str]) -> Iterator[Photo]:
    """Decodes every file of a folder and yields the good ones, sorted by name.

    Takes about 30 ms per megapixel and CPU core.

    Args:
      store: the folder.
      rejected: is filled with the name of each bad file and the reason.

    Raises:
      OSError: a file exists but cannot be read at the moment.
    """
    names = store.list_names()
    threads = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # Work in blocks, so that little is read ahead of the consumer.
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
        return describe(error)
    try:
        image = decode_image(data, name, refuse=LENIENT)
    except ImageError as error:
        return error.reason
    height, width = image.pixels.shape[:2]
    return Photo(name, width, height, store.tags.get(name, ()), data)
