"""Writes and reads safetensors files one tensor at a time.

The library's save_file keeps the tensors and their bytes in memory, its load_file the
arrays and the file. For models of several gigabytes that is twice as much as needed.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.files import written_whole


class TensorFileError(LinearSRError):
    """Raised for a file that does not have the expected tensors; one line."""


_ALIGNMENT = 64  # bytes
# Names of the types in the header. Little-endian, as everything that JAX runs on.
_TYPES = {
    np.dtype(np.float32): "F32",
    np.dtype(jnp.bfloat16): "BF16",
    np.dtype(np.uint8): "U8",
}

Read = Callable[[str], np.ndarray | Iterable[np.ndarray]]


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Read,
    metadata: Mapping[str, str],
    dtype: DTypeLike = np.float32,
) -> None:
    """Writes tensors to a safetensors file, whole or not at all.

    Args:
      path: file to write; replaced if it exists.
      shapes: shape of each tensor, by name.
      read: function from a name to the tensor, or to its parts along the first axis;
        called once per tensor, in the order of the file.
      metadata: text for the header of the file.
      dtype: type of all tensors, float32, bfloat16 or uint8.

    Raises:
      ValueError: a tensor has another shape.
    """
    with written_whole(path) as temporary, temporary.open("xb") as file:
        file.write(_header(shapes, metadata, dtype))
        for name, shape in shapes.items():
            _write(file, name, shape, read(name), dtype)


def write_tensors_resumably(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Read,
    metadata: Mapping[str, str],
    dtype: DTypeLike = np.float32,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Writes tensors that take long to make, and can continue after a stop.

    Finished tensors are kept in PATH.part. The same call continues there; it makes only
    what is missing, and the last tensor again, which may be incomplete.

    Args:
      path, shapes, read, metadata, dtype: see `write_tensors`.
      progress: wraps the missing names, to show progress.

    Raises:
      ValueError: a tensor has another shape, or PATH.part was begun by another call.
    """
    part = path.with_name(f"{path.name}.part")
    header = _header(shapes, metadata, dtype)
    if not part.exists():
        part.write_bytes(header)
    with part.open("r+b") as file:
        found = file.read(len(header))
        if found != header[: len(found)]:
            raise ValueError(
                f"{part}: was begun with other input or options; use those again, or "
                "remove it"
            )
        size = os.fstat(file.fileno()).st_size
        file.seek(0)
        file.write(header)
        file.flush()
        os.fsync(file.fileno())
        sizes = [_bytes_of(shape, dtype) for shape in shapes.values()]
        starts = list(itertools.accumulate(sizes, initial=len(header)))
        # Count the tensors that end before the file does, but never the last one.
        done = sum(end < size for end in starts[1:-1])
        file.truncate(starts[done])
        file.seek(starts[done])
        for name in progress(list(shapes)[done:]):
            _write(file, name, shapes[name], read(name), dtype)
            file.flush()
            os.fsync(file.fileno())
    os.replace(part, path)


def _bytes_of(shape: Sequence[int], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _header(
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str],
    dtype: DTypeLike,
) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _bytes_of(shape, dtype)
        header[name] = {
            "dtype": _TYPES[np.dtype(dtype)],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(
    file: BinaryIO,
    name: str,
    shape: tuple[int, ...],
    found: np.ndarray | Iterable[np.ndarray],
    dtype: DTypeLike,
) -> None:
    parts = [found] if isinstance(found, np.ndarray) else found
    size = 0
    for part in parts:
        if part.shape[1:] != shape[1:]:
            raise ValueError(f"{name}: has shape {part.shape}, not {shape}")
        size += part.size
        # Write bytes, because numpy does not export buffers of bfloat16.
        flat = np.ascontiguousarray(part, dtype).reshape(-1)
        file.write(flat.view(np.uint8).data)
    if size != math.prod(shape):
        raise ValueError(f"{name}: has {size} elements, not {shape}")


def read_params(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = np.float32
) -> PyTree:
    """Reads exactly the given tensors from a file, into a tree split at the dots.

    Args:
      path: the file.
      shapes: shape of each tensor, by name.
      dtype: type of all tensors, float32, bfloat16 or uint8.

    Raises:
      TensorFileError: the file cannot be read, or tensors are missing, unknown or of
        another shape.
    """
    try:
        arrays = read_tensors(path, dtype)
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


def read_tensors(path: Path, dtype: DTypeLike = np.float32) -> dict[str, np.ndarray]:
    """Reads a safetensors file whose tensors have one type, in memory for one copy.

    The arrays are aligned, so that JAX on CPU uses them without copying.

    Args:
      path: the file.
      dtype: type of all tensors, float32, bfloat16 or uint8.

    Raises:
      OSError, safetensors.SafetensorError: the file cannot be read.
      ValueError: a tensor has another type.
    """
    type_name = _TYPES[np.dtype(dtype)]
    # Let the library check the header.
    with safe_open(path, framework="numpy"):
        pass
    arrays = {}
    with path.open("rb", buffering=0) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] != type_name:
                raise ValueError(
                    f"{name} is {entry['dtype']}, and not {np.dtype(dtype)} "
                    f"({type_name})"
                )
            array = _empty(entry["shape"], dtype)
            file.seek(start + entry["data_offsets"][0])
            # One call reads at most 2 GiB.
            rest = array.reshape(-1).view(np.uint8).data if array.size else b""
            while len(rest):
                count = file.readinto(rest)
                if not count:
                    raise OSError(f"{path}: ends within {name}")
                rest = rest[count:]
            arrays[name] = array
    return arrays


def _empty(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    size = _bytes_of(shape, dtype)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
