"""Measures how many samples a process makes a second, with LR images or with plans.

python experiments/202611_degradation/process.py [SIDE]

Photographs of 1200 x 800 pixels lie decoded in memory, and each sample draws one of
the four degradations by the default weights. Prints samples per second of CPU time
for both values of `data.degrade_on`, measured by turns, and their ratio.
"""

import sys
import time

import numpy as np
from PIL import Image

from linearsr_jax.config.defaults import default_config
from linearsr_jax.data.pipeline import PipelineConfig, make_dataset

COUNT, REPEATS = 32, 5


def make_photo(seed: int) -> np.ndarray:
    """A smooth colour picture with fine noise: all 8-bit values, like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (67, 100, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((1200, 800), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def main(side: int) -> None:
    """Prints one line."""
    # As many as a data set has: shuffling four takes grain milliseconds a sample.
    photos = [make_photo(seed) for seed in range(4)] * 5000
    weights = default_config().data.degradations.to_dict()
    rates = {"host": [], "device": []}
    datasets = {
        where: make_dataset(
            photos,
            PipelineConfig(side, degradations=weights, degrade_on=where),
            seed=0,
            batch_size=COUNT,
        )
        for where in rates
    }
    for number in range(REPEATS):
        for where, dataset in datasets.items():
            start = time.process_time()
            dataset[number]
            rates[where].append(COUNT / (time.process_time() - start))
    host, device = (np.median(values) for values in rates.values())
    print(f"{side}: host {host:.1f}, device {device:.1f}, ratio {device / host:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
