"""Safetensors files written and read one tensor at a time.

The library's save_file holds the tensors and their bytes at once, its load_file the
arrays and the file they come from; of models of gigabytes that is twice too much.
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from linearsr_jax.array_types import PyTree


class TensorFileError(Exception):
    """A file without the tensors that it should have; one line."""


_ALIGNMENT = 64  # bytes


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


def read_params(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> PyTree:
    """Reads a file that holds exactly these tensors, into a tree split at the dots.

    Raises:
      TensorFileError: it cannot be read, or tensors are missing, unknown or of another
        shape.
    """
    try:
        arrays = read_tensors(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise TensorFileError(f"{path}: {error}") from error
    problems = {
        "missing": sorted(shapes.keys() - arrays.keys()),
        "unknown": sorted(arrays.keys() - shapes.keys()),
        "of another shape": sorted(
            name
            for name in shapes.keys() & arrays.keys()
            if shapes[name] != arrays[name].shape
        ),
    }
    for problem, names in problems.items():
        if names:
            raise TensorFileError(
                f"{path}: {len(names)} tensors {problem}: " + ", ".join(names)
            )
    return traverse_util.unflatten_dict(arrays, sep=".")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file of float32 tensors, in memory for one copy.

    The arrays are aligned so that JAX on CPU takes them as they are, without another.

    Raises:
      OSError, safetensors.SafetensorError: it cannot be read.
      ValueError: it holds another type.
    """
    # Checks all that the header says.
    with safe_open(path, framework="numpy"):
        pass
    arrays = {}
    with path.open("rb", buffering=0) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] != "F32":
                raise ValueError(f"{name} is {entry['dtype']}, and not float32 (F32)")
            array = _empty(entry["shape"])
            file.seek(start + entry["data_offsets"][0])
            # At most 2 GiB come at a time.
            rest = memoryview(array).cast("B") if array.size else b""
            while len(rest):
                count = file.readinto(rest)
                if not count:
                    raise OSError(f"{path}: ends within {name}")
                rest = rest[count:]
            arrays[name] = array
    return arrays


def _empty(shape: Sequence[int]) -> np.ndarray:
    size = 4 * math.prod(shape)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(np.float32).reshape(shape)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
