"""Scores both sliders along the fidelity, and prints a table.

python experiments/202612_conditioned/score.py RUNS SET COUNT

SET has folders HR and LR with files of equal names; COUNT evenly spaced pairs count.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from conditioned import conditioned, with_fidelity
from flax import traverse_util
from safetensors.numpy import load_file

from linearsr_jax.core.image_io import find_images, read_image
from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.metrics import get_metrics
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained.model_folder import WEIGHTS_FILE, load_pretrained

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
METRICS = ("psnr", "lpips", "niqe")
Slider = Callable[[np.ndarray, float], np.ndarray]


def make_sliders(runs: Path) -> dict[str, Slider]:
    """Makes a function of LR image and fidelity for each way."""
    start = load_pretrained(runs / "start")
    (low,), codec = start.experts, start.codec
    high, sharp = (
        # `load_pretrained` would refuse the fourth channel.
        traverse_util.unflatten_dict(
            load_file(runs / way / "model" / WEIGHTS_FILE), sep="."
        )
        for way in ("mixed", "conditioned")
    )
    plain = get_preset("nano").make_model()
    with conditioned():
        reading = get_preset("nano").make_model()

    def decode(output, image_lr):
        # At sigma = 1 the output is the estimate of x0.
        image = (codec.decode(output, image_lr)[0] + 1) * 127.5
        return jnp.rint(jnp.clip(image, 0, 255)).astype(jnp.uint8)

    def noise(image_lr):
        return jnp.zeros((*image_lr.shape[:3], codec.channels))

    @jax.jit
    def by_weights(params, image_lr):
        output = plain.apply({"params": params}, noise(image_lr), jnp.ones(1), image_lr)
        return decode(output, image_lr)

    @jax.jit
    def by_condition(params, image_lr, fidelity):
        output = reading.apply(
            {"params": params},
            noise(image_lr),
            fidelity,
            with_fidelity(image_lr, fidelity),
        )
        return decode(output, image_lr)

    def mixed(image, place):
        params = jax.tree.map(lambda a, b: a + np.float32(place) * (b - a), low, high)
        return np.asarray(by_weights(params, to_unit_range(jnp.asarray(image[None]))))

    def condition(image, place):
        image_lr = to_unit_range(jnp.asarray(image[None]))
        return np.asarray(by_condition(sharp, image_lr, jnp.full(1, place)))

    return {"mixed weights": mixed, "conditioned": condition}


def main() -> None:
    """Prints a row for each way and place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("count", type=int)
    args = parser.parse_args()
    pairs = list(
        zip(
            *(find_images(args.data / name, recursive=False) for name in ("HR", "LR")),
            strict=True,
        )
    )
    chosen = np.linspace(0, len(pairs) - 1, args.count).round().astype(int)
    metrics = [(metric, metric.load()) for metric in get_metrics(METRICS)]
    for way, slider in make_sliders(args.runs).items():
        for place in PLACES:
            rows = []
            for index in chosen:
                hr, lr = (read_image(path).rgb for path in pairs[index])
                sr = slider(lr, place)
                rows.append(
                    [
                        score(sr, hr) if metric.compares_with == "hr" else score(sr)
                        for metric, score in metrics
                    ]
                )
            means = np.mean(rows, axis=0)
            print(
                f"| {way} | {place} | {means[0]:.2f} | {means[1]:.4f} | "
                f"{means[2]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
