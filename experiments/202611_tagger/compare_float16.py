"""Measures what storing the network as float16 changes for the photographs.

    python experiments/202611_tagger/compare_float16.py shared/photos \
        efficientnet-lite0-57934424.pth --out float16.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from experiments.shipped_weights.efficientnet_lite0 import convert
from linearsr_jax.convert.torch_pickle import open_pickle
from linearsr_jax.core import image_io
from linearsr_jax.tagging import light


def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="shared/photos")
    parser.add_argument("pth", type=Path, help="the weights as published, float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with open_pickle(args.pth) as tensors:
        whole = light.LightTagger()
        whole._read = light.load_reader(save(convert(tensors)))
    half = light.LightTagger()
    moved, differ, tags = [], 0, 0
    files = sorted(args.photos.glob("*/*.webp"))
    for path in files:
        pixels = image_io.read_image(path).rgb
        a, b = whole._read(pixels), half._read(pixels)
        moved.append(np.abs(a.probabilities - b.probabilities).max())
        # Reading again is cheap, and asks exactly what a user asks.
        a, b = set(dict(whole(pixels))), set(dict(half(pixels)))
        differ += len(a ^ b)
        tags += len(a)
    results = {
        "photos": len(files),
        "largest change of a probability": float(max(moved)),
        "median over photos of the largest change": float(np.median(moved)),
        "tags with float32 weights": tags,
        "tags given by one and not by the other": differ,
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
