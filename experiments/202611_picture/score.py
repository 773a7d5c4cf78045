"""Scores one-step models on evenly spaced pairs of RealSR.

python experiments/202611_picture/score.py REALSR COUNT MODEL[:FIDELITY] ...

REALSR has folders HR and LR with files of equal names. Prints the means of PSNR-Y,
LPIPS and NIQE over COUNT pairs.
"""

import argparse
from pathlib import Path

import numpy as np

from linearsr_jax.core.image_io import find_images, read_image
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.metrics import get_metrics


def main() -> None:
    """Prints a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("realsr", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    hr, lr = (
        [read_image(p).rgb for p in find_images(args.realsr / side, recursive=False)]
        for side in ("HR", "LR")
    )
    chosen = np.linspace(0, len(hr) - 1, args.count).round().astype(int)
    metrics = {m.name: (m, m.load()) for m in get_metrics(("psnr", "lpips", "niqe"))}
    for spec in args.models:
        name, _, fidelity = spec.partition(":")
        upscaler = Upscaler.from_pretrained(name)
        settings = {"fidelity": float(fidelity)} if fidelity else {}
        rows = []
        for index in chosen:
            sr = upscaler(lr[index], **settings)
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
