"""Packs photographs into one safetensors file, for machines where files are slow.

Each photograph is one uint8 tensor, named like its file and containing the bytes of
that file, so decoding gives the same pixels. The metadata entry "photos" lists
{"file", "width", "height", "tags"} as JSON. The file is memory-mapped; only the
photographs that are asked for are read.
"""

import functools
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from linearsr_jax.core.files import written_whole
from linearsr_jax.data.checking import Photo
from linearsr_jax.data.manifest import Manifest, make_manifest

_FORMAT = "linearsr_photos_1"


def write_packed(path: str | os.PathLike, photos: Iterable[Photo]) -> int:
    """Writes a packed file, whole or not at all.

    All photographs are in memory until then. An existing file is replaced.

    Args:
      path: the file to write.
      photos: photographs with distinct names.

    Returns:
      The number of photographs.

    Raises:
      OSError: the file cannot be written.
      ValueError: there are no photographs.
    """
    path = pathlib.Path(path)
    photos = list(photos)
    if not photos:
        raise ValueError(f"{path}: not written, because no photograph can be decoded.")
    index = json.dumps([photo.entry() for photo in photos], ensure_ascii=False)
    tensors = {photo.file: np.frombuffer(photo.data, np.uint8) for photo in photos}
    with written_whole(path) as temporary:
        temporary.touch(exist_ok=False)
        # save_file makes files that only the owner can read; keep the usual mode.
        mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata={"format": _FORMAT, "photos": index})
        temporary.chmod(mode)
    return len(photos)


class PackedStore:
    """Photographs of a packed file; see `sources.PhotoStore`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a packed file, or is cut off.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(os.path.abspath(path))
        try:
            metadata = self._file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(
                f"{path}: not a file of packed photographs, or cut off ({error}); "
                "make it with `linearsr prepare packed`."
            ) from error
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{path}: contains tensors that are not photographs (format "
                f"{metadata.get('format')!r}, not {_FORMAT!r})."
            )
        photos = json.loads(metadata["photos"])
        self._sizes = {p["file"]: (p["width"], p["height"]) for p in photos}
        self.tags = {p["file"]: tuple(p["tags"]) for p in photos}

    @functools.cached_property
    def _file(self) -> Any:
        return safe_open(self.path, framework="numpy")

    def __getstate__(self) -> dict[str, Any]:
        # Each process maps the file itself.
        return {name: x for name, x in self.__dict__.items() if name != "_file"}

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        """Returns the photograph's bytes; see `sources.PhotoStore`."""
        if name not in self._sizes:
            raise FileNotFoundError(f"{self.path}: has no {name}")
        return self._file.get_tensor(name).tobytes()

    def scan(self, *, min_size: int) -> Manifest:
        """Makes the manifest from the index; see `sources.PhotoStore`."""
        return make_manifest(str(self.path), self._sizes, min_size)
