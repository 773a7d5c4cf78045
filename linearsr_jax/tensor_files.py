"""Safetensors files written and read one tensor at a time.

The library's save_file holds the tensors and their bytes at once, its load_file the
arrays and the file they come from; of models of gigabytes that is twice too much.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray | Iterable[np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Writes float32 tensors to a safetensors file, whole or not at all.

    Args:
      path: replaced if it exists.
      shapes: of the tensors, by name.
      read: name -> the tensor, or its parts, to be joined along the first axis;
        called once each, in the order of the file.
      metadata: goes into the file's header.

    Raises:
      ValueError: a tensor has another shape.
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
                found = read(name)
                parts = [found] if isinstance(found, np.ndarray) else found
                size = 0
                for part in parts:
                    if part.shape[1:] != shape[1:]:
                        raise ValueError(f"{name}: has shape {part.shape}, not {shape}")
                    size += part.size
                    file.write(np.ascontiguousarray(part, "<f4").data)
                if size != np.prod(shape):
                    raise ValueError(f"{name}: has {size} elements, not {shape}")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file of a type that numpy has.

    Raises:
      OSError, safetensors.SafetensorError: it cannot be read.
    """
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
    return {name: _read_one(path, name) for name in names}


def _read_one(path: Path, name: str) -> np.ndarray:
    # Opened for each: what has been read of an open file stays in memory.
    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
