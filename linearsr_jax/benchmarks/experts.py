"""Measures what experts cost in sampling: one, four resident, and four offloaded.

Weights are random, and all sample one image with the same number of steps. They take
turns within one run, so that other load on the machine affects all of them alike.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from kernels_pallas import bench_lib
from linearsr_jax.codecs import load_codec
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES
from linearsr_jax.inference.offloaded import OffloadedDenoiser
from linearsr_jax.inference.sampling import (
    cut_segments,
    draw_noise,
    make_upscale,
    upscale,
)
from linearsr_jax.models.presets import get_preset

# LR pixels per side.
CPU_SIDE, ACCELERATOR_SIDE = 64, 128
# At least three rounds; after this many seconds no further round begins.
ROUNDS = 15
MAX_SECONDS = 60.0


def bench_experts(preset_name: str = "nano", steps: int = 8) -> dict[str, Any]:
    """Measures sampling and the transfer of one expert.

    Args:
      preset_name: preset whose codec has no weights.
      steps: number of network evaluations.

    Returns:
      {"preset", "lr_side", "rounds", "device", "jax", "copy_gb_per_s", "rows":
      [{"what", "steps", "ms", "ratio", "mb", "gb_per_s"}]}. ms is the median over the
      rounds, ratio the median of the time over that of one expert in the same round.
      mb and gb_per_s describe the transfer; gb_per_s is null on CPU, where nothing is
      copied.

    Raises:
      ValueError: there is no such preset.
      CodecError: its codec needs weights.
    """
    preset = get_preset(preset_name)
    codec = load_codec(preset.codec, "")
    model = preset.make_model()
    init = jax.jit(model.init_params)
    keys = jax.random.split(jax.random.key(0), len(EXPERT_BOUNDARIES) + 1)
    experts = tuple(jax.device_get(init(key)) for key in keys)
    side = CPU_SIDE if jax.default_backend() == "cpu" else ACCELERATOR_SIDE
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    noise = draw_noise(preset, codec, side, side, steps=steps, seed=0)
    arrays = jax.device_put((codec, pixels, noise))

    resident = jax.device_put(experts)
    one = jax.jit(make_upscale(model, preset, steps=steps))
    four = jax.jit(
        make_upscale(model, preset, steps=steps, boundaries=EXPERT_BOUNDARIES)
    )
    segments = cut_segments(preset, steps=steps, boundaries=EXPERT_BOUNDARIES)
    offloaded = functools.partial(upscale, OffloadedDenoiser(model, preset), segments)
    seconds = _interleaved(
        {
            "one expert": functools.partial(one, resident[:1], *arrays),
            "four resident": functools.partial(four, resident, *arrays),
            "four offloaded": functools.partial(offloaded, experts, *arrays),
            "transfer of one": functools.partial(jax.device_put, experts[0]),
        }
    )
    transferred = sum(leaf.nbytes for leaf in jax.tree.leaves(experts[0]))
    copy = bench_lib.copy_bandwidth()
    rows = [
        {
            "what": what,
            "steps": steps,
            "ms": round(1e3 * statistics.median(times), 3),
            "ratio": round(
                statistics.median(np.divide(times, seconds["one expert"]).tolist()), 3
            ),
            "mb": None,
            "gb_per_s": None,
        }
        for what, times in seconds.items()
    ]
    rows[-1] |= {"steps": None, "mb": round(transferred / 1e6, 2)}
    # On CPU the device memory is the host memory, and JAX copies nothing.
    if jax.default_backend() != "cpu":
        per_second = transferred / statistics.median(seconds["transfer of one"])
        rows[-1]["gb_per_s"] = round(per_second / 1e9, 2)
    return {
        "preset": preset_name,
        "lr_side": side,
        "rounds": len(seconds["one expert"]),
        **bench_lib.report(rows, copy),
    }


def _interleaved(calls: dict[str, Callable]) -> dict[str, list[float]]:
    """Times each call in every round, after a first one that compiles."""
    seconds = {what: [] for what in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    end = time.perf_counter() + MAX_SECONDS
    for number in range(ROUNDS):
        if number >= 3 and time.perf_counter() > end:
            break
        # Alternate the direction, so that no call always follows the same other.
        for what, call in list(calls.items())[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[what].append(time.perf_counter() - start)
    return seconds
