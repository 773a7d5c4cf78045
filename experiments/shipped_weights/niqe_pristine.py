"""Converts NIQE's model of pristine images to safetensors; run once, by a maintainer.

    git clone https://github.com/XPixelGroup/BasicSR
    python -m experiments.shipped_weights.niqe_pristine \
        BasicSR/basicsr/metrics/niqe_pris_params.npz \
        --to linearsr_jax/weights/niqe_pristine.safetensors

The source is BasicSR (Apache-2.0), which took the numbers from the authors' release
(The University of Texas at Austin, 2011). The notices are in
linearsr_jax/weights/NIQE_LICENSE.txt. The numbers are not changed: float64 in, the
same bits out.
"""

import argparse
import hashlib
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from linearsr_jax.metrics.niqe import PARAMETER_SHAPES

_SHA256 = "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296"

_NAMES = {"mu_pris_param": "mean", "cov_pris_param": "covariance"}
# The 7x7 Gaussian of the filter: metrics/niqe.py computes it.
_DROPPED = {"gaussian_window"}


def convert(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads and renames the arrays.

    Args:
        path: an .npz of float64 arrays; pickled objects in it are not opened.

    Returns:
        Arrays named and shaped as `metrics.niqe.PARAMETER_SHAPES` says.

    Raises:
        ValueError: arrays are unknown, missing, or of another shape or dtype, or
            the file is no .npz of plain arrays.
    """
    with np.load(path, allow_pickle=False) as source:
        arrays = {name: source[name] for name in source.files}
    known = _NAMES.keys() | _DROPPED
    if arrays.keys() != known:
        raise ValueError(
            f"{path}: unknown {sorted(arrays.keys() - known)}, "
            f"missing {sorted(known - arrays.keys())}"
        )
    tensors = {}
    for source_name, name in _NAMES.items():
        # The mean is a row, (1, 36), in the source.
        array = arrays[source_name].squeeze()
        if array.shape != PARAMETER_SHAPES[name] or array.dtype != np.float64:
            raise ValueError(
                f"{path}: {source_name} must be float64 {PARAMETER_SHAPES[name]}, "
                f"got {array.dtype} {array.shape}"
            )
        tensors[name] = np.ascontiguousarray(array)
    return tensors


def main() -> None:
    """Runs the conversion from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("npz", type=Path, help="niqe_pris_params.npz")
    parser.add_argument("--to", type=Path, required=True, help="safetensors to write")
    args = parser.parse_args()
    digest = hashlib.sha256(args.npz.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise SystemExit(f"{args.npz}: has SHA-256 {digest}, not {_SHA256}")
    source = f"BasicSR, basicsr/metrics/niqe_pris_params.npz, SHA-256 {_SHA256}"
    tensors = convert(args.npz)
    args.to.write_bytes(save(tensors, metadata={"source": source}))
    print(f"{args.to}: {', '.join(f'{k} {v.shape}' for k, v in tensors.items())}")


if __name__ == "__main__":
    main()
