"""Photographs decoded once, in one file that training maps into memory.

Decoding is most of what a small model's training waits for: 24 ms for two megapixels,
longer than the model's own step. Here a crop costs the pages of the file that it lies
on, and the memory belongs to the system's cache, once for all processes. The file is
safetensors: a uint8 tensor (H, W, 3) for each photograph, and the metadata entry
"photos" as in `packed`. It takes 3 bytes a pixel.
"""

import functools
import json
import os
import pathlib

import numpy as np

from linearsr_jax.core.image_io import LENIENT, decode_image
from linearsr_jax.core.tensor_files import write_tensors
from linearsr_jax.data.checking import check_photos
from linearsr_jax.data.folder import FolderStore
from linearsr_jax.data.manifest import Manifest, make_manifest

_FORMAT = "linearsr_pixels_1"


def write_decoded(
    root: pathlib.Path, path: pathlib.Path, *, overwrite: bool = False
) -> tuple[int, dict[str, str]]:
    """Decodes the photographs of a folder into one file, whole or not at all.

    Each is decoded twice, the first time for its size, so that one at a time is in
    memory.

    Args:
      root: the folder, searched recursively.
      path: the file.
      overwrite: replace an existing file; else it is an error.

    Returns:
      The number of photographs, and name to reason of those left out.

    Raises:
      FileExistsError: path exists.
      OSError, ValueError: unusable folder, nothing to decode, or path not writable.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists; --overwrite replaces it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist; make it first.")
    store, rejected = FolderStore(root), {}
    entries = [photo.entry() for photo in check_photos(store, rejected)]
    if not entries:
        raise ValueError(f"{path}: not written, for no photograph can be decoded.")
    write_tensors(
        path,
        {entry["file"]: (entry["height"], entry["width"], 3) for entry in entries},
        lambda name: decode_image(store.read(name), name, refuse=LENIENT).rgb,
        {"format": _FORMAT, "photos": json.dumps(entries, ensure_ascii=False)},
        np.uint8,
    )
    return len(entries), rejected


def is_decoded(path: str | os.PathLike) -> bool:
    """Tells whether a file is one of `write_decoded`."""
    return _read_header(path).get("__metadata__", {}).get("format") == _FORMAT


def _read_header(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > os.fstat(file.fileno()).st_size:
            return {}
        try:
            return json.loads(file.read(size))
        except ValueError:
            return {}


class DecodedStore:
    """Photographs of such a file; see `sources.PhotoStore`.

    Attributes:
      tags: see there.

    Raises:
      ValueError: the file is cut off.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(os.path.abspath(path))
        header = _read_header(path)
        photos = json.loads(header.pop("__metadata__")["photos"])
        self._sizes = {p["file"]: (p["width"], p["height"]) for p in photos}
        self.tags = {p["file"]: tuple(p["tags"]) for p in photos}
        self._starts = {name: x["data_offsets"][0] for name, x in header.items()}
        with open(path, "rb") as file:
            self._first = 8 + int.from_bytes(file.read(8), "little")
        expected = self._first + max(x["data_offsets"][1] for x in header.values())
        if self.path.stat().st_size != expected:
            raise ValueError(
                f"{path}: is cut off; make it with `linearsr prepare decoded`."
            )

    @functools.cached_property
    def _map(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, "r")

    def __getstate__(self) -> dict:
        # Each process maps the file itself.
        return {name: x for name, x in self.__dict__.items() if name != "_map"}

    def __str__(self) -> str:
        return str(self.path)

    def pixels(self, name: str) -> np.ndarray:
        """Returns one photograph, a read-only view of the file.

        Raises:
          FileNotFoundError: there is none of that name.
        """
        if name not in self._sizes:
            raise FileNotFoundError(f"{self.path}: has no {name}")
        width, height = self._sizes[name]
        start = self._first + self._starts[name]
        flat = self._map[start : start + 3 * width * height]
        return np.asarray(flat).reshape(height, width, 3)

    def read(self, name: str) -> bytes:
        """Refuses: these have no encoded form."""
        raise ValueError(f"{self.path}: holds pixels, not the files they come from")

    def scan(self, *, min_size: int) -> Manifest:
        """Makes the manifest from the index; see `sources.PhotoStore`."""
        return make_manifest(str(self.path), self._sizes, min_size)
