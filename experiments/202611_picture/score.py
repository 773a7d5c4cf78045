"""Scores one-step models on evenly spaced pairs of RealSR, or of another set.

python experiments/202611_picture/score.py REALSR COUNT MODEL[:FIDELITY] ... \
    [--metrics psnr,lpips,niqe] [--side 64] [--unsharp 0.5]

REALSR has folders HR and LR with files of equal names. Prints the means of the metrics
over COUNT pairs, or over the squares of --side LR pixels in their middle. --unsharp
adds so much of what a Gaussian of three pixels takes away from each output.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from linearsr_jax.core.image_io import find_images, read_image
from linearsr_jax.core.scale import SCALE
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.metrics import get_metrics


def middle(image: np.ndarray, side: int | None, scale: int) -> np.ndarray:
    """Crops to `side` LR pixels, each `scale` of the image's; to all without a side."""
    if side is None:
        return image
    # Whole LR pixels, so that the crops of a pair show the same.
    top, left = ((size // scale - side) // 2 * scale for size in image.shape[:2])
    return image[top : top + scale * side, left : left + scale * side]


def unsharp(image: np.ndarray, amount: float) -> np.ndarray:
    """Adds `amount` of what a Gaussian of three pixels takes away."""
    blurred = gaussian_filter(image.astype(np.float32), (3, 3, 0))
    return np.clip(np.rint(image + amount * (image - blurred)), 0, 255).astype(np.uint8)


def main() -> None:
    """Prints a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("realsr", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("models", nargs="+")
    parser.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        default=("psnr", "lpips", "niqe"),
    )
    parser.add_argument("--side", type=int)
    parser.add_argument("--unsharp", type=float, default=0.0)
    args = parser.parse_args()
    hr, lr = (
        [
            middle(read_image(path).rgb, args.side, scale)
            for path in find_images(args.realsr / folder, recursive=False)
        ]
        for folder, scale in (("HR", SCALE), ("LR", 1))
    )
    chosen = np.linspace(0, len(hr) - 1, args.count).round().astype(int)
    metrics = {m.name: (m, m.load()) for m in get_metrics(args.metrics)}
    for spec in args.models:
        name, _, fidelity = spec.partition(":")
        upscaler = Upscaler.from_pretrained(name)
        settings = {"fidelity": float(fidelity)} if fidelity else {}
        rows = []
        for index in chosen:
            sr = unsharp(upscaler(lr[index], **settings), args.unsharp)
            rows.append(
                [
                    score(sr, hr[index]) if metric.compares_with == "hr" else score(sr)
                    for metric, score in metrics.values()
                ]
            )
        means = zip(metrics, np.mean(rows, axis=0), strict=True)
        print(spec, *(f"{name} {mean:.4f}" for name, mean in means), flush=True)


if __name__ == "__main__":
    main()
