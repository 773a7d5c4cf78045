"""Measures the cost of the experts' grid with identical experts: copies of nano.

    python experiments/202611_recipe/knots.py DATA

DATA has folders HR and LR, as for `linearsr eval --data`. One seed, centre crops.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from linearsr_jax.core.image_io import find_images, read_image
from linearsr_jax.core.image_range import to_uint8
from linearsr_jax.diffusion import samplers
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES
from linearsr_jax.evaluation.folders import find_folders
from linearsr_jax.inference.sampling import draw_noise, make_upscale
from linearsr_jax.metrics import get_metrics
from linearsr_jax.pretrained.model_folder import load_pretrained

SIDE = 60


def unlimited(sigmas):
    """DPM-Solver++ as diffusers has it, however far it extrapolates."""
    table = samplers.dpm_solver_pp(sigmas)
    gain = table.current + table.previous
    half = np.zeros(len(gain))
    with np.errstate(divide="ignore"):
        lam = np.log1p(-sigmas) - np.log(sigmas)
    for i in range(1, len(gain) - 1):
        half[i] = 0.5 * (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1])
    return table._replace(current=gain * (1 + half), previous=-gain * half)


def load_pairs(data: Path):
    """Centre crops of the colour images: HR, LR."""
    hr, lr = find_folders(data)
    pairs = []
    for path_hr, path_lr in zip(find_images(hr), find_images(lr), strict=True):
        images = read_image(path_hr).rgb, read_image(path_lr).rgb
        if images[1].shape[2:] == (3,):
            top, left = ((n - SIDE) // 2 for n in images[1].shape[:2])
            crops = [
                x[k * top : k * (top + SIDE), k * left : k * (left + SIDE)]
                for x, k in zip(images, (4, 1), strict=True)
            ]
            pairs.append(crops)
    return pairs


def main(data: Path):
    """Prints a line for each number of steps, grid and solver."""
    model = load_pretrained("nano")
    network = model.preset.make_model()
    pairs = load_pairs(data)
    scores = {metric.name: metric.load() for metric in get_metrics(["psnr", "lpips"])}
    limited = samplers.dpm_solver_pp
    cases = {
        "plain grid": ((), limited),
        "knots, not limited": (EXPERT_BOUNDARIES, unlimited),
        "knots": (EXPERT_BOUNDARIES, limited),
    }
    for steps in (4, 8, 20):
        noise = draw_noise(model.preset, model.codec, SIDE, SIDE, steps=steps, seed=0)
        for name, (boundaries, solver) in cases.items():
            samplers.SOLVERS["dpm_solver_pp"] = solver
            upscale = jax.jit(
                make_upscale(network, model.preset, steps=steps, boundaries=boundaries)
            )
            experts = model.experts * (len(boundaries) + 1)
            outputs = [
                to_uint8(upscale(experts, model.codec, lr, noise)[0]) for _, lr in pairs
            ]
            means = {
                metric: np.mean(
                    [score(x, hr) for x, (hr, _) in zip(outputs, pairs, strict=True)]
                )
                for metric, score in scores.items()
            }
            print(steps, name, {k: round(float(v), 4) for k, v in means.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
