"""Folders of photographs as a random-access source of uint8 RGB arrays.

A training run makes one `Manifest` before its first step: every candidate file
is decoded once, and what cannot be used is listed with a reason. The manifest
is stored with the checkpoint, so that sample number i means the same photograph
after a restart, whatever has been added to the folder since.

Colour: images are read as they are stored. Embedded ICC profiles are not
applied and alpha is ignored (the colour under transparent pixels is used).
"""

import collections
import concurrent.futures
import dataclasses
import logging
import os
import pathlib
import threading
from typing import Any

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The usable image files of a folder, and why the others are not.

    Attributes:
      files: paths relative to the folder, with forward slashes, sorted.
      sizes: (width, height) in pixels of each file, after EXIF orientation.
      rejected: reason in words for each candidate that is not in `files`.
    """

    files: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    rejected: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if len(self.files) != len(self.sizes):
            raise ValueError(
                f"Manifest: {len(self.files)} files but {len(self.sizes)} sizes."
            )

    def __len__(self) -> int:
        return len(self.files)

    def to_json(self) -> dict[str, Any]:
        """Returns a dict of lists, strings and numbers that json can store."""
        return {
            "files": list(self.files),
            "sizes": [list(size) for size in self.sizes],
            "rejected": dict(self.rejected),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Manifest":
        """Inverse of `to_json`; raises ValueError on a dict of another form."""
        try:
            return cls(
                files=tuple(str(name) for name in data["files"]),
                sizes=tuple((int(w), int(h)) for w, h in data["sizes"]),
                rejected={str(k): str(v) for k, v in data["rejected"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "Not a manifest: expected a dict with files, sizes and rejected "
                f"({type(error).__name__}: {error})."
            ) from error


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Decodes one image file to 8-bit RGB.

    EXIF orientation is applied. Grayscale is repeated over the channels, 16 bits
    are rounded to 8, alpha is ignored, and of several frames the first is taken.

    Args:
      path: image file in any format that Pillow reads.

    Returns:
      uint8 array (H, W, 3), values 0..255.

    Raises:
      OSError, SyntaxError, ValueError and others that Pillow's decoders raise:
      the file is missing, truncated, not an image, or of a pixel type without a
      defined range (floating point).
    """
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("floating-point pixels have no defined range")
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.int64)
            # Pillow's 32-bit "I" is also what 16-bit files open as.
            if values.min() < 0 or values.max() > 65535:
                raise ValueError("integer pixels outside 0..65535")
            gray = ((values + 128) // 257).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        if image.mode == "P":
            # Straight to RGB, Pillow warns about palettes with transparency.
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def _describe(error: Exception) -> str:
    """One line for an exception of Pillow; its messages may hold whole paths."""
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image that can be read, whatever its name says"
    return f"cannot be decoded: {error}".strip().replace("\n", " ")


def _inspect(path: pathlib.Path, min_size: int) -> tuple[int, int] | str:
    """Returns (width, height) of a usable file, else the reason against it."""
    try:
        height, width = read_rgb(path).shape[:2]
    except Exception as error:
        # Decoders raise OSError, SyntaxError, struct.error, zlib.error, ...: the
        # set is open, and any of them means only that this file is unusable.
        return _describe(error)
    if min(width, height) < min_size:
        return f"too small: {width}x{height}, needs {min_size} pixels on each side"
    return width, height


def _candidates(root: pathlib.Path) -> list[str]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = pathlib.Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def scan_folder(
    root: str | os.PathLike, *, min_size: int, max_threads: int | None = None
) -> Manifest:
    """Finds the usable images under a folder by decoding each of them once.

    Files and folders whose names start with a dot are skipped; links to folders
    are not followed. Takes about 30 ms per megapixel and thread.

    Args:
      root: folder to walk, recursively.
      min_size: smallest accepted width and height in pixels.
      max_threads: decoding threads; by default one per CPU, at most 16.

    Returns:
      The manifest; the same files give the same manifest.

    Raises:
      FileNotFoundError: root does not exist.
      NotADirectoryError: root is a file.
      ValueError: no file under root is usable.
    """
    root = pathlib.Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder; check the path.")
    if not root.is_dir():
        raise NotADirectoryError(
            f"{root}: is a file; give the folder that holds the images."
        )
    names = _candidates(root)
    if not names:
        raise ValueError(
            f"{root}: holds no image files; looked for "
            f"{', '.join(sorted(IMAGE_SUFFIXES))} in it and its subfolders."
        )
    threads = max_threads or min(16, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # Pillow's decoders release the GIL.
        results = list(pool.map(lambda name: _inspect(root / name, min_size), names))
    usable = {}
    rejected = {}
    for name, result in zip(names, results, strict=True):
        if isinstance(result, str):
            rejected[name] = result
        else:
            usable[name] = result
    if not usable:
        name, reason = next(iter(rejected.items()))
        raise ValueError(
            f"{root}: none of its {len(rejected)} image files can be used; "
            f"the first, {name}: {reason}. Add images or lower the crop size."
        )
    return Manifest(tuple(usable), tuple(usable.values()), rejected)


class FolderSource:
    """The images of a manifest, by index: a grain RandomAccessDataSource.

    `source[i]` is a read-only uint8 array (H, W, 3). Decoded images stay in
    memory, least recently used out first. The cache belongs to one process and
    is not pickled: with worker processes each fills its own, so the memory is
    `cache_bytes` times their number.

    A file that has vanished, changed its size or become unreadable since the
    manifest was made is replaced by the next index (cyclically) that can be read.
    That depends only on the files, so processes that find the same files make the
    same choice; what a process holds decoded it goes on using. Each replacement is
    logged once and noted in `replaced` (path to reason; of this process only).

    Args:
      root: the folder the manifest was made from.
      manifest: its usable files; must not be empty.
      cache_bytes: bound of the decoded images kept, in bytes; 0 keeps none.

    Raises:
      ValueError: empty manifest or negative cache_bytes.
      RuntimeError: (on reading) none of the files can be read any more.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        manifest: Manifest,
        *,
        cache_bytes: int = 1 << 30,
    ):
        if not manifest.files:
            raise ValueError(f"{root}: the manifest lists no files.")
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must not be negative, got {cache_bytes}.")
        self.root = pathlib.Path(root)
        self.manifest = manifest
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
        return len(self.manifest.files)

    def __repr__(self) -> str:
        # grain shows and compares sources by repr: no addresses, no cache state.
        return f"FolderSource({str(self.root)!r}, {len(self)} files)"

    def __getitem__(self, index: int) -> np.ndarray:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self!r}: index {index} is out of range.")
        for offset in range(count):
            image = self._read((index + offset) % count)
            if image is not None:
                return image
        raise RuntimeError(
            f"{self.root}: none of the {count} files of the manifest can be read "
            f"any more; the first, {self.manifest.files[0]}: "
            f"{self.replaced[self.manifest.files[0]]}."
        )

    def _read(self, index: int) -> np.ndarray | None:
        """Returns image `index`, or None where its file is no longer usable."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
            # Stays out for good: a file that came back halfway would make the
            # stream depend on the moment it was read.
            if self.manifest.files[index] in self.replaced:
                return None
        # Decoding is outside the lock. Two threads may decode the same file at
        # once; the second then finds it in the cache.
        name = self.manifest.files[index]
        try:
            image = read_rgb(self.root / name)
            width, height = self.manifest.sizes[index]
            if image.shape[:2] != (height, width):
                raise ValueError(
                    f"size is now {image.shape[1]}x{image.shape[0]}, "
                    f"was {width}x{height}"
                )
        except Exception as error:
            self._note_replaced(name, _describe(error))
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

    def _note_replaced(self, name: str, reason: str):
        with self._lock:
            if name in self.replaced:
                return
            self.replaced[name] = reason
        _logger.warning(
            "%s: %s; the next image of the manifest is used in its place.",
            self.root / name,
            reason,
        )
