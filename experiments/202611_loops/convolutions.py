"""Times a convolution's gradients in and out of lax.scan, with XLA's rules and ours.

python convolutions.py results.json
"""

import functools
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas.bench_lib import device_name
from linearsr_jax.core.convolution import convolve, convolve_plain

BATCH, SIDE = 8, 24  # nano's crops of 96 pixels.
# Channels in and out: of nano's stem, and of its residual blocks.
CASES = [(96, 96), (64, 64)]
ROUNDS, ITERATIONS = 5, 2


def gradient(convolution, argument, x, kernel, cotangent):
    """The gradient of one argument, 0 or 1."""
    return jax.vjp(convolution, x, kernel)[1](cotangent)[argument]


def looped(function):
    """The same ITERATIONS times in a loop."""

    def run(*arrays):
        def body(carry, _):
            inputs, _ = jax.lax.optimization_barrier((arrays, carry))
            return function(*inputs), None

        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, *arrays))
        return jax.lax.scan(body, zeros, None, length=ITERATIONS)[0]

    return run


def measure(inputs, outputs):
    """Rows for one pair of channel counts; all variants take turns."""
    rng = np.random.default_rng(0)
    shapes = (
        (BATCH, SIDE, SIDE, inputs),
        (3, 3, inputs, outputs),
        (BATCH, SIDE, SIDE, outputs),
    )
    arrays = [jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes]
    calls = {}
    for form, convolution in (("xla", convolve_plain), ("ours", convolve)):
        for argument, name in enumerate(("input", "kernel")):
            function = functools.partial(gradient, convolution, argument)
            calls[name, form, "outside"] = jax.jit(function), 1
            calls[name, form, "loop"] = jax.jit(looped(function)), ITERATIONS
    seconds = {key: [] for key in calls}
    for number in range(ROUNDS + 1):
        for key, (function, count) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arrays))
            if number:
                seconds[key].append((time.perf_counter() - start) / count)
    rows = []
    for (name, form, where), times in seconds.items():
        ratios = np.divide(times, seconds[name, "xla", "outside"]).tolist()
        rows.append(
            {
                "channels": [inputs, outputs],
                "gradient": name,
                "rules": form,
                "where": where,
                "ms": round(1e3 * statistics.median(times), 2),
                "ratio": round(statistics.median(ratios), 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main(path):
    """Writes the rows of all cases."""
    rows = [row for case in CASES for row in measure(*case)]
    report = {"device": device_name(), "jax": jax.__version__, "rows": rows}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
