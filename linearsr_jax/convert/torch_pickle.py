"""Reads other projects' pickled checkpoints, weights-only, through torch.

torch is not a requirement of this package; only these files need it.
"""

import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from linearsr_jax.convert.safetensors_stream import (
    ConvertError,
    Sources,
    SourceTensor,
)

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@contextmanager
def open_pickle(path: Path, inside: str = "state_dict") -> Generator[Sources]:
    """Opens a checkpoint.

    Args:
      path: the checkpoint, which contains a dict.
      inside: entry of the dict that contains the tensors; if there is no such entry,
        the dict itself does.

    Yields:
      The tensors by name.

    Raises:
      ConvertError: torch is not installed, or the file contains more than weights.
    """
    try:
        import torch
    except ImportError as error:
        raise ConvertError(
            f"{path}: a pickle, which only torch can read; pip install torch, or give "
            "a .safetensors file"
        ) from error
    try:
        # Only the format of 2020 and later, a zip, can be memory-mapped.
        is_mapped = zipfile.is_zipfile(path)
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
        tree = tree.get(inside, tree)
        tensors = {name: value.detach() for name, value in tree.items()}
    # torch raises almost anything for files that are not its own.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConvertError(f"{path}: cannot be read weights-only: {reason}") from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        return lambda: tensors[name].float().numpy()

    yield {
        name: SourceTensor(tuple(tensor.shape), reader(name))
        for name, tensor in tensors.items()
    }
