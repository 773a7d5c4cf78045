"""Reads photographs from a prepared TFDS dataset; imports TFDS only to open one."""

import functools
import os
import pathlib
from typing import Any

from linearsr_jax.data.manifest import Manifest, make_manifest

INFO_FILE = "dataset_info.json"
DEFAULT_SPLIT = "train"


def find_dataset(location: str | os.PathLike) -> tuple[pathlib.Path, str] | None:
    """Returns the folder and split that a location names, or None.

    The folder itself names its split "train"; FOLDER/SPLIT names any split.
    """
    path = pathlib.Path(os.path.abspath(location))
    if (path / INFO_FILE).is_file():
        return path, DEFAULT_SPLIT
    if not path.exists() and (path.parent / INFO_FILE).is_file():
        return path.parent, path.name
    return None


class TfdsStore:
    """Photographs of one split of a dataset that `tfds_builder` wrote.

    See `sources.PhotoStore`.

    Raises:
      ValueError: the dataset was not written by us, or has no such split.
    """

    def __init__(self, folder: pathlib.Path, split: str):
        self.folder = folder
        self.split = split
        photos = dict(self._builder.info.metadata or {}).get("photos")
        if photos is None:
            raise ValueError(
                f"{folder}: a TFDS dataset without an index of photographs; make one "
                "with `linearsr prepare tfds`."
            )
        if split not in photos:
            raise ValueError(
                f"{folder}: has no split {split!r}; it has {', '.join(photos)}."
            )
        self._sizes = {p["file"]: (p["width"], p["height"]) for p in photos[split]}
        self._records = {name: i for i, name in enumerate(self._sizes)}
        self.tags = {p["file"]: tuple(p["tags"]) for p in photos[split]}

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.folder)

    @functools.cached_property
    def _examples(self) -> Any:
        import tensorflow_datasets as tfds

        return self._builder.as_data_source(
            self.split, decoders={"image": tfds.decode.SkipDecoding()}
        )

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the files itself.
        opened = ("_builder", "_examples")
        return {name: x for name, x in self.__dict__.items() if name not in opened}

    def __str__(self) -> str:
        return str(self.folder / self.split)

    def read(self, name: str) -> bytes:
        """Returns the photograph's bytes; see `sources.PhotoStore`."""
        if name not in self._records:
            raise FileNotFoundError(f"{self}: has no {name}")
        try:
            return self._examples[self._records[name]]["image"]
        except RuntimeError as error:
            # array_record raises RuntimeError for every failure.
            kind = ValueError if str(error).startswith("Corrupted") else OSError
            raise kind(str(error)) from error

    def scan(self, *, min_size: int) -> Manifest:
        """Makes the manifest from the index; see `sources.PhotoStore`."""
        return make_manifest(str(self), self._sizes, min_size)
