"""Times nano on a 128x128 LR image: the budget is 1 s on two cores, once compiled.

python experiments/202611_nano/timing.py
"""

import statistics
import time

import numpy as np

from linearsr_jax import Upscaler

REPEATS = 15


def main() -> None:
    """Prints the median, and the range, for one and for four steps."""
    upscaler = Upscaler.from_pretrained("nano-flow")
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for steps in (1, 4):
        start = time.perf_counter()
        upscaler(pixels, steps=steps)
        first = time.perf_counter() - start
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            upscaler(pixels, steps=steps)
            seconds.append(time.perf_counter() - start)
        print(
            f"128x128 -> 512x512, {steps} step(s): median "
            f"{statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f}, {REPEATS} runs); "
            f"the first, with compiling, {first:.1f} s"
        )


if __name__ == "__main__":
    main()
