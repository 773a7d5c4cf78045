"""Gives random access to photographs as uint8 RGB arrays, in whatever form they are.

The form may be a folder, one packed file (`packed`), one file of pixels (`decoded`), or
a prepared TFDS dataset (`tfds_store`); the same photographs give the same arrays in the
same order in each. `linearsr prepare` makes the last three.
"""

import collections
import logging
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from linearsr_jax.core import image_io
from linearsr_jax.data.decoded import DecodedStore, is_decoded
from linearsr_jax.data.folder import FolderStore
from linearsr_jax.data.manifest import Manifest, describe
from linearsr_jax.data.packed import PackedStore
from linearsr_jax.data.tfds_store import TfdsStore, find_dataset

_logger = logging.getLogger(__name__)

# Errors that stay until somebody changes the files.
_LOST = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class PhotoStore(Protocol):
    """A place with encoded photographs, by name.

    A store can be pickled, and its str() is its location.
    """

    @property
    def tags(self) -> Mapping[str, tuple[str, ...]]:
        """Words for what a photograph shows, by name, where there are any."""
        ...

    def scan(self, *, min_size: int) -> Manifest:
        """Lists the photographs whose sides are at least min_size pixels.

        Decodes no pixels, so a file that is cut off after its header passes. The same
        files give the same manifest.

        Raises:
          ValueError: no photograph is usable.
        """
        ...

    def read(self, name: str) -> bytes:
        """Returns one photograph as the bytes of its file.

        Raises:
          FileNotFoundError: there is no photograph of that name, or no longer.
          ValueError: the bytes are damaged.
          OSError: the photograph cannot be read at the moment.
        """
        ...


def open_source(
    location: str | os.PathLike,
    *,
    min_size: int,
    cache_bytes: int,
    manifest: Manifest | None = None,
) -> "PhotoSource":
    """Opens photographs in any of the three forms.

    Args:
      location: a folder of photographs, a packed file, the folder of a prepared TFDS
        dataset (meaning its split "train"), or that folder followed by /SPLIT.
      min_size: smallest accepted width and height in pixels.
      cache_bytes: see `PhotoSource`.
      manifest: manifest of an earlier run, so that sample numbers keep their meaning;
        by default a new one is made.

    Raises:
      OSError: the location does not exist.
      ValueError: it has another form, or no usable photograph.
    """
    store = _open_store(location)
    if manifest is None:
        manifest = store.scan(min_size=min_size)
    return PhotoSource(store, manifest, cache_bytes=cache_bytes)


def _open_store(location: str | os.PathLike) -> PhotoStore:
    if pathlib.Path(location).is_file():
        return DecodedStore(location) if is_decoded(location) else PackedStore(location)
    if dataset := find_dataset(location):
        return TfdsStore(*dataset)
    return FolderStore(location)


class PhotoSource:
    """The photographs of a manifest, by index: a grain RandomAccessDataSource.

    `source[i]` is a read-only uint8 array (H, W, 3). Decoded photographs are cached;
    the least recently used are dropped first. The cache belongs to one process and is
    not pickled, so with worker processes the memory is `cache_bytes` times their
    number.

    A photograph that cannot be decoded, has vanished, or has changed its size since
    the manifest was made is replaced by the next one, cyclically, that can be read.
    This depends only on the files, so processes that find the same files make the same
    choice. A process keeps using what it has already decoded. Each replacement is
    logged once and recorded in `replaced` (reason by name, for this process only).
    Failures that may pass (disk, network, memory) are raised, because replacing a
    photograph would make the stream depend on the moment.

    Attributes:
      names: names of the photographs, as in the manifest.
      tags: tags of each photograph, () where there are none. A replaced photograph
        keeps its own tags here, not those of its replacement.

    Args:
      store: place that the photographs are in.
      manifest: photographs to use; must not be empty.
      cache_bytes: limit on decoded photographs kept, in bytes; 0 keeps none.

    Raises:
      ValueError: manifest is empty, or cache_bytes is negative.
      OSError: (on reading) a failure that may pass.
      RuntimeError: (on reading) none of the photographs can be read any more.
    """

    def __init__(self, store: PhotoStore, manifest: Manifest, *, cache_bytes: int):
        if not manifest.files:
            raise ValueError(f"{store}: the manifest lists no files.")
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must not be negative, got {cache_bytes}.")
        self.store = store
        self.manifest = manifest
        self.names = manifest.files
        self.tags = tuple(store.tags.get(name, ()) for name in manifest.files)
        self.cache_bytes = cache_bytes
        self.replaced: dict[str, str] = {}
        self._start_cache()

    def _start_cache(self):
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[int, np.ndarray] = (
            collections.OrderedDict()
        )
        self._cached_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_lock", "_cache", "_cached_bytes"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]):
        self.__dict__.update(state)
        self._start_cache()

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        # grain shows and compares sources by repr: no addresses, no cache state.
        return f"PhotoSource({str(self.store)!r}, {len(self)} photographs)"

    def __getitem__(self, index: int) -> np.ndarray:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self!r}: index {index} is out of range.")
        for offset in range(count):
            image = self._read((index + offset) % count)
            if image is not None:
                return image
        raise RuntimeError(
            f"{self.store}: none of the {count} files of the manifest can be read "
            f"any more; the first, {self.names[0]}: {self.replaced[self.names[0]]}."
        )

    def _read(self, index: int) -> np.ndarray | None:
        """Returns photograph `index`, or None where it is no longer usable."""
        name = self.names[index]
        if isinstance(self.store, DecodedStore):
            return self.store.pixels(name)
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
            # A replaced photograph stays replaced: if it came back, the stream would
            # depend on the moment.
            if name in self.replaced:
                return None
        # Decode outside the lock. Two threads may decode the same file at once; the
        # second then finds it in the cache.
        image = self._decode(index, name)
        if image is None:
            return None
        image.flags.writeable = False
        with self._lock:
            if index not in self._cache and image.nbytes <= self.cache_bytes:
                self._cache[index] = image
                self._cached_bytes += image.nbytes
                while self._cached_bytes > self.cache_bytes:
                    _, dropped = self._cache.popitem(last=False)
                    self._cached_bytes -= dropped.nbytes
        return image

    def _decode(self, index: int, name: str) -> np.ndarray | None:
        try:
            data = self.store.read(name)
        except (*_LOST, ValueError) as error:
            return self._note_replaced(name, describe(error))
        except OSError as error:
            raise OSError(
                f"{self.store}: {name} cannot be read at the moment ({error}). Run the "
                "same command again; if the error stays, remove the file (training "
                "goes on without it) or prepare the dataset again."
            ) from error
        try:
            image = image_io.decode_image(data, name, refuse=image_io.LENIENT).rgb
        except image_io.ImageError as error:
            return self._note_replaced(name, error.reason)
        width, height = self.manifest.sizes[index]
        # Accept both orientations: not every header gives it.
        if sorted(image.shape[:2]) != sorted((height, width)):
            return self._note_replaced(
                name,
                f"size is now {image.shape[1]}x{image.shape[0]}, was {width}x{height}",
            )
        return image

    def _note_replaced(self, name: str, reason: str) -> None:
        with self._lock:
            if name in self.replaced:
                return
            self.replaced[name] = reason
        _logger.warning(
            "%s: %s: %s; using the next image of the manifest instead.",
            self.store,
            name,
            reason,
        )
