"""Reads other projects' safetensors files one tensor at a time.

A converter therefore needs memory for one tensor, whatever the size of the model.
"""

import json
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from linearsr_jax.core.errors import LinearSRError


class ConvertError(LinearSRError):
    """Raised for a source that cannot be converted; one line."""


class SourceTensor(NamedTuple):
    """A tensor of a source that is read when called.

    Attributes:
      shape: shape, known without reading.
      read: reads the tensor as float32.
      is_bfloat16: whether the source is known to store bfloat16.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    is_bfloat16: bool = False

    def __call__(self) -> np.ndarray:
        """Reads the tensor as float32."""
        return self.read()


Sources = dict[str, SourceTensor]


def find_weights(folder: Path, name: str) -> Path | None:
    """Finds the safetensors file of a model, or the index of several.

    Args:
      folder: folder as diffusers or transformers save it; may be missing.
      name: beginning of the file names.

    Returns:
      The path, or None if there is no such file.

    Raises:
      ConvertError: there are several candidates.
    """
    default = folder / f"{name}.safetensors"
    if default.is_file():
        return default
    # Other precisions have a mark in the name; for shards, the index counts.
    whole = [p for p in folder.glob(f"{name}.*safetensors") if "-of-" not in p.name]
    found = sorted([*whole, *folder.glob(f"{name}.*.json")])
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConvertError(f"{folder}: contains {names}; give one of these files")
    return found[0] if found else None


def weight_files(weights: Path) -> list[Path]:
    """Lists the weights file itself, or the shards of an index."""
    if weights.suffix != ".json":
        return [weights]
    files = json.loads(weights.read_text("utf-8"))["weight_map"].values()
    return [weights.parent / name for name in sorted(set(files))]


def open_weights(weights: Path) -> AbstractContextManager[Sources]:
    """Opens the result of `find_weights`; see `open_tensors` and `open_shards`."""
    if weights.suffix == ".json":
        return open_shards(weights)
    return open_tensors(weights)


@contextmanager
def open_tensors(path: Path) -> Generator[Sources]:
    """Opens a safetensors file.

    Yields:
      The tensors by name.

    Raises:
      ConvertError: the file cannot be read as safetensors.
    """
    try:
        # The framework sets only the type of the arrays; numpy alone has no bfloat16.
        with safe_open(path, framework="flax") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {
                name: (tuple(part.get_shape()), part.get_dtype() == "BF16")
                for name, part in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise ConvertError(f"{path}: cannot be read: {error}") from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read():
            # Open the file for each tensor: what was read of an open file stays in
            # memory.
            with safe_open(path, framework="flax") as file:
                return np.asarray(file.get_tensor(name), np.float32)

        return read

    yield {
        name: SourceTensor(shape, reader(name), is_bfloat16)
        for name, (shape, is_bfloat16) in found.items()
    }


@contextmanager
def open_shards(index: Path) -> Generator[Sources]:
    """Opens the files that an index (.index.json) names.

    Yields:
      The tensors of all files by name.

    Raises:
      ConvertError: the index or a file cannot be read, or a file contains other tensors
        than the index says.
    """
    try:
        files = json.loads(index.read_text("utf-8"))["weight_map"]
        shards: dict[str, set[str]] = {}
        for name, file in files.items():
            shards.setdefault(str(file), set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{index}: cannot be read: {error!r}") from error
    tensors: Sources = {}
    for file, expected in shards.items():
        with open_tensors(index.parent / file) as shard:
            wrong = sorted(expected ^ shard.keys())
            if wrong:
                raise ConvertError(
                    f"{index.parent / file}: {len(wrong)} tensors are not where "
                    f"{index.name} says: {', '.join(wrong)}"
                )
            tensors |= shard
    yield tensors
