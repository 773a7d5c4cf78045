"""Measures crops per second of CPU time, in host and device form, part by part.

python experiments/202611_degradation/benchmark.py OUT.json [SIDE ...]

CPU time of the whole process over the crops made is what a crop costs one core, also
on a machine that others use; the device form's threads count in full. Takes the best
of three repeats. On an accelerator the device form is timed by the clock instead.
"""

import cProfile
import dataclasses
import functools
import importlib.metadata
import json
import platform
import pstats
import sys
import time

import jax
import numpy as np
from PIL import Image

from linearsr_jax.data import degradation_plan, degradations
from linearsr_jax.data.degradation_params import LIGHT, STANDARD
from linearsr_jax.data.device_degradations import degrade_on_device

FACTOR = 4
SECOND_ORDER = {"light": LIGHT, "standard": STANDARD}
REPEATS = 3
HOST_CROPS = {96: 200, 192: 80, 512: 16}
DEVICE_BATCH = {96: 32, 192: 16, 512: 4}
# Function -> the part of the work it stands for; only one of them is active at a time.
PARTS = {
    "blur": "blur",
    "_resize": "resize",
    "poisson_noise": "Poisson noise",
    "gaussian_noise": "Gaussian noise",
    "jpeg": "JPEG",
    "render": "kernels",
}


def make_crop(side: int) -> np.ndarray:
    """A smooth colour picture with fine noise: all 8-bit values, like a photograph."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (side // 12, side // 12, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + rng.normal(0, 4, (side, side, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def best_seconds(function, clock) -> float:
    """The least time of REPEATS calls."""
    seconds = []
    for _ in range(REPEATS):
        start = clock()
        function()
        seconds.append(clock() - start)
    return min(seconds)


def time_host(params, side: int) -> dict:
    """Crops per CPU second of `degrade`, and the shares of its parts in percent."""
    crop, count = make_crop(side), HOST_CROPS[side]

    def run():
        for seed in range(count):
            rng = np.random.default_rng(seed)
            degradations.degrade(crop, params, FACTOR, rng)

    run()
    rate = count / best_seconds(run, time.process_time)
    profile = cProfile.Profile()
    profile.runcall(run)
    stats = pstats.Stats(profile)
    shares = {
        PARTS[name]: round(100 * entry[3] / stats.total_tt)
        for (file, _, name), entry in stats.stats.items()
        if name in PARTS and "linearsr_jax" in file
    }
    return {"crops_per_second": round(rate, 1), "percent": shares}


def time_device(params, side: int) -> dict:
    """Crops per second of the jitted `degrade_on_device`, plans included."""
    batch = DEVICE_BATCH[side]
    crops = np.stack([make_crop(side)] * batch)
    degrade = jax.jit(
        functools.partial(degrade_on_device, params=params, factor=FACTOR)
    )

    def make_plan():
        packed = [
            degradation_plan.pack(
                degradation_plan.draw_plan(params, np.random.default_rng(seed)),
                (side, side),
                FACTOR,
            )
            for seed in range(batch)
        ]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *packed)

    plan = make_plan()
    is_cpu = jax.default_backend() == "cpu"
    clock = time.process_time if is_cpu else time.perf_counter
    start = clock()
    jax.block_until_ready(degrade(crops, plan))
    first = clock() - start
    seconds = best_seconds(lambda: jax.block_until_ready(degrade(crops, plan)), clock)
    planning = best_seconds(make_plan, time.process_time)
    return {
        "crops_per_second": round(batch / seconds, 1),
        "plans_per_second_on_host": round(batch / planning, 1),
        "first_call_seconds": round(first, 1),
    }


def compare(params, count: int = 64, side: int = 96) -> dict:
    """PSNR in dB between host and device for the same plans, noise switched off."""
    noises = ("noise_sigma1", "noise_sigma2", "poisson_scale1", "poisson_scale2")
    params = dataclasses.replace(params, **dict.fromkeys(noises, (0.0, 0.0)))
    crop = make_crop(side)
    plans = [
        degradation_plan.draw_plan(params, np.random.default_rng([1, n]))
        for n in range(count)
    ]
    packed = [degradation_plan.pack(plan, (side, side), FACTOR) for plan in plans]
    degrade = jax.jit(
        functools.partial(degrade_on_device, params=params, factor=FACTOR)
    )
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *packed)
    ours = np.asarray(degrade(np.stack([crop] * count), stacked)).astype(float)
    host = np.stack([degradations.apply_plan(crop, plan, FACTOR) for plan in plans])
    error = np.mean((ours - host) ** 2, (1, 2, 3))
    scores = 10 * np.log10(255**2 / np.maximum(error, 1e-6))
    return {
        "psnr_min": round(float(scores.min()), 1),
        "psnr_median": round(float(np.median(scores)), 1),
        "levels_mean": round(float(np.abs(ours - host).mean()), 2),
    }


def main(out: str, sides: list[int]) -> None:
    """Writes the results as JSON, and prints them as they come."""
    packages = ("jax", "numpy", "pillow")
    results = {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "device": str(jax.devices()[0].device_kind),
        "host": {},
        "on_device": {},
        "same_plan": {},
    }
    measures = [
        (key, measure, name, side)
        for side in sides
        for key, measure in (("host", time_host), ("on_device", time_device))
        for name in SECOND_ORDER
    ]
    for key, measure, name, side in measures:
        row = measure(SECOND_ORDER[name], side)
        results[key][f"{name} {side}"] = row
        print(key, name, side, row, flush=True)
    for name, params in SECOND_ORDER.items():
        results["same_plan"][name] = compare(params)
        print("same plan", name, results["same_plan"][name], flush=True)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], [int(side) for side in sys.argv[2:]] or [96, 192, 512])
