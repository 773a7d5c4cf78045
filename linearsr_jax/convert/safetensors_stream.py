"""Safetensors files read and written one tensor at a time.

A converter then holds one tensor in memory, whatever the model's size.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open


class ConvertError(Exception):
    """A source that cannot be converted; one line, says what is wrong."""


@contextmanager
def open_tensors(path: Path) -> Iterator[dict[str, Callable[[], np.ndarray]]]:
    """Opens a safetensors file: name -> a function that reads the tensor, float32.

    Raises:
      ConvertError: the file is not one.
    """
    try:
        # The framework only chooses the arrays' type: numpy alone has no bfloat16.
        opened = safe_open(path, framework="flax")
    except (OSError, SafetensorError) as error:
        raise ConvertError(f"{path}: cannot be read: {error}") from error
    with opened as file:

        def reader(name: str) -> Callable[[], np.ndarray]:
            return lambda: np.asarray(file.get_tensor(name), np.float32)

        yield {name: reader(name) for name in file.keys()}  # noqa: SIM118


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes float32 tensors to a safetensors file, whole or not at all.

    Args:
      path: replaced if it exists.
      shapes: of the tensors, by name.
      read: name -> the tensor; called once each, in the order of the file.
      metadata: goes into the file's header.

    Raises:
      ConvertError: a tensor has another shape.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        with open(temporary, "xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, shape in shapes.items():
                array = read(name)
                if array.shape != shape:
                    raise ConvertError(
                        f"{name}: the source has shape {array.shape}, not {shape}"
                    )
                file.write(np.ascontiguousarray(array, "<f4").data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
