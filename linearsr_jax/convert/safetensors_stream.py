"""Other people's safetensors files, read one tensor at a time.

A converter then holds one tensor in memory, whatever the model's size.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open


class ConvertError(Exception):
    """A source that cannot be converted; one line, says what is wrong."""


class SourceTensor(NamedTuple):
    """A tensor of a source, not read yet; calling it reads it.

    Attributes:
      shape: known without reading.
      read: reads it, as float32.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __call__(self) -> np.ndarray:
        """The tensor, float32."""
        return self.read()


Sources = dict[str, SourceTensor]


@contextmanager
def open_tensors(path: Path) -> Iterator[Sources]:
    """Opens a safetensors file: the tensors by name.

    Raises:
      ConvertError: the file is not one.
    """
    try:
        # The framework only chooses the arrays' type: numpy alone has no bfloat16.
        with safe_open(path, framework="flax") as file:
            shapes = {
                name: tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118
            }
    except (OSError, SafetensorError) as error:
        raise ConvertError(f"{path}: cannot be read: {error}") from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read():
            # Opened for each: what has been read of an open file stays in memory.
            with safe_open(path, framework="flax") as file:
                return np.asarray(file.get_tensor(name), np.float32)

        return read

    yield {name: SourceTensor(shape, reader(name)) for name, shape in shapes.items()}


@contextmanager
def open_shards(index: Path) -> Iterator[Sources]:
    """Opens the files that a diffusers index (.index.json) names.

    Raises:
      ConvertError: the index cannot be read, a file is missing or cannot be read, or
        holds other tensors than the index says.
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
