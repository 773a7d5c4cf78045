"""Reads other people's checkpoints that are pickles: weights-only, by torch.

torch is not among our requirements; only these files need it.
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
    """Opens a checkpoint: the tensors by name.

    Args:
      path: of the checkpoint, a dict.
      inside: the entry of the dict that holds the tensors; without such an entry
        the dict itself does.

    Raises:
      ConvertError: torch is not installed, or the file holds more than weights.
    """
    try:
        import torch
    except ImportError as error:
        raise ConvertError(
            f"{path}: is a pickle, which only torch reads; pip install torch, or give "
            "a .safetensors file"
        ) from error
    try:
        # Only the format of 2020 and newer, a zip, can stay on the disk.
        is_mapped = zipfile.is_zipfile(path)
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
        tree = tree.get(inside, tree)
        tensors = {name: value.detach() for name, value in tree.items()}
    # torch raises almost anything on files that are not its own.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConvertError(f"{path}: cannot be read weights-only: {reason}") from error

    def reader(name: str) -> Callable[[], np.ndarray]:
        return lambda: tensors[name].float().numpy()

    yield {
        name: SourceTensor(tuple(tensor.shape), reader(name))
        for name, tensor in tensors.items()
    }
