"""Reads other people's checkpoints that are pickles: weights-only, by torch.

torch is not among our requirements; only these files need it.
"""

from collections.abc import Callable, Iterator
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
def open_pickle(path: Path) -> Iterator[Sources]:
    """Opens a checkpoint: the tensors by name.

    The tensors are those of the dict in the file, or of its "state_dict".

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
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        tree = tree.get("state_dict", tree)
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
