"""Times training steps in and out of loops, with both convolutions, in one process.

python measure.py results.json [STAGE ...]

All variants take turns, so that other load meets them alike; what counts is the median
of each round's ratio to one expert's step without a loop.
"""

import contextlib
import json
import statistics
import sys
import time

import jax
import numpy as np

from configs.nano import STAGES, get_config
from kernels_pallas.bench_lib import device_name
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.core.convolution import convolve, convolve_plain
from linearsr_jax.metrics import lpips
from linearsr_jax.models import discriminator, embeddings
from linearsr_jax.training import expert_axis
from linearsr_jax.training.setup import make_parts
from linearsr_jax.training.step import make_state, make_train_step

ROUNDS = 3
EXPERTS = 4
BATCH, SIDE = 8, 96
MODULES = (embeddings, discriminator, lpips)


@contextlib.contextmanager
def convolving(convolution):
    """Makes everything that is traced inside use this convolution."""
    for module in MODULES:
        module.convolve = convolution
    try:
        yield
    finally:
        for module in MODULES:
            module.convolve = convolve


def parts_of(stage):
    """What `linearsr train` would build of nano."""
    config = get_config(stage)
    config.data.folder = config.val.folder = "unused"
    config.batch_size, config.data.crop_size = BATCH, SIDE
    return make_parts(config)


def draw_batch(count):
    """Random crops."""
    rng = np.random.default_rng(0)
    sides = {"image_hr": SIDE, "image_lr": SIDE // 4}
    return {
        key: rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        for key, side in sides.items()
    }


def variants(stage):
    """{name: (seconds that one expert's steps would take, compiled call)}."""
    parts = parts_of(stage)
    loss, optimizer = parts.loss, parts.optimizer
    state = make_state(
        jax.jit(parts.model.init_params)(jax.random.key(0)), optimizer, loss.adversary
    )
    codec, batch = PixelCodec(), draw_batch(BATCH)
    stacked = expert_axis.broadcast((state, batch), EXPERTS)
    steps = {
        "one": (1, make_train_step(loss, optimizer, seed=0), (state, batch, codec)),
        "four experts": (
            EXPERTS,
            expert_axis.over_experts(make_train_step(loss, optimizer, seed=0)),
            (*stacked, codec),
        ),
        "four microbatches": (
            4,
            make_train_step(loss, optimizer, seed=0, accumulation=4),
            (state, draw_batch(4 * BATCH), codec),
        ),
    }
    calls = {}
    for form, convolution in (("plain", convolve_plain), ("ours", convolve)):
        for name, (count, step, arguments) in steps.items():
            with convolving(convolution):
                # A function of its own, or jax would reuse what it traced before.
                compiled = jax.jit(lambda *a, step=step: step(*a)).lower(*arguments)
                compiled = compiled.compile()
            calls[f"{name}, {form}"] = count, compiled, arguments
    return calls


def measure(stage):
    """Rows of median seconds, and the median ratio to one plain step, per step."""
    calls = variants(stage)
    seconds = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name, (_, compiled, arguments) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            if number:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        ratios = np.divide(times, seconds["one, plain"]) / calls[name][0]
        rows.append(
            {
                "stage": stage,
                "what": name,
                "ms": round(1e3 * statistics.median(times)),
                "ratio": round(statistics.median(ratios.tolist()), 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main(path, *stages):
    """Writes the rows of the stages of configs/nano.py."""
    rows = [row for stage in stages or STAGES for row in measure(stage)]
    report = {"device": device_name(), "jax": jax.__version__, "rows": rows}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
