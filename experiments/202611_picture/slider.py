"""Compares ways to move between the mean and the perceptual end of nano.

python experiments/202611_picture/slider.py MODEL DATA OUT.json [--count N]

MODEL has both sets of weights, DATA an HR and an LR folder. For five places on the
slider: interpolated weights, which cost one evaluation, and interpolated outputs, which
cost two.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from linearsr_jax.core.image_io import find_images, read_image
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.metrics import get_metrics

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
METRICS = ("psnr", "ssim", "lpips", "niqe")


def compare(model: Path, data: Path, count: int | None) -> dict:
    """Scores both ways; rows are {"way", "fidelity", metric: mean}."""
    upscaler = Upscaler.from_pretrained(model)
    metrics = [(metric, metric.load()) for metric in get_metrics(METRICS)]
    pairs = list(zip(find_images(data / "HR"), find_images(data / "LR"), strict=True))
    values: dict[tuple[str, float], list[list[float]]] = {}
    for number in np.unique(
        np.linspace(0, len(pairs) - 1, count or len(pairs), dtype=int)
    ):
        hr, lr = (read_image(path).rgb for path in pairs[number])
        weights = {place: upscaler(lr, fidelity=place) for place in PLACES}
        low, high = (weights[place].astype(float) for place in (0.0, 1.0))
        for place in PLACES:
            mixed = np.rint((1 - place) * low + place * high).astype(np.uint8)
            for way, image in (("weights", weights[place]), ("outputs", mixed)):
                scores = [
                    score(image, hr) if metric.compares_with == "hr" else score(image)
                    for metric, score in metrics
                ]
                values.setdefault((way, place), []).append(scores)
    rows = [
        {"way": way, "fidelity": place}
        | dict(zip(METRICS, np.mean(scores, axis=0).round(4).tolist(), strict=True))
        for (way, place), scores in sorted(values.items())
    ]
    return {"images": len(scores), "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    result = compare(args.model, args.data, args.count)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    for row in result["rows"]:
        print(*row.values())
