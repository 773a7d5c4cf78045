"""Validates random weights on noise; run as a script, on one of two processes.

    python -m tests.training.validating PORT PROCESS

prints the scores and how many images the process has scored, as JSON.
"""

import json
import sys

import jax
import numpy as np

from configs import debug
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.metrics import Metric
from linearsr_jax.metrics.psnr_ssim import psnr_y
from linearsr_jax.training import validation
from linearsr_jax.training.expert_axis import split
from linearsr_jax.training.hosts import connected
from linearsr_jax.training.initial_state import StartState
from linearsr_jax.training.setup import make_parts

# Two rounds of eight devices, of which the second is not full.
IMAGES, SIDE = 11, 32


def validate(devices=None):
    """Returns (scores by name, number of images scored here, pictures)."""
    config = debug.get_config()
    config.update_from_flattened_dict(
        {
            "data.folder": "photographs",
            "data.degradations": {"bicubic": 1.0},
            "val.holdout": 0.1,
            "val.crop_size": SIDE,
            "val.metrics": ("psnr",),
            "val.steps": 2,
            "mesh.fsdp": 2 if devices is None else 1,
            "expert_boundaries": (0.5,),
        }
    )
    parts = make_parts(config, devices)
    scored = []

    def counting_psnr(output, image_hr):
        scored.append(output)
        return psnr_y(output, image_hr)

    metric = Metric("psnr", "hr", higher_is_better=True, load=lambda: counting_psnr)
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    with jax.set_mesh(parts.mesh):
        params = StartState(parts).random().params
        # At the start the network's output is zero.
        params = jax.tree.map(lambda x: x + 0.05, params)
        before, validation.get_metrics = validation.get_metrics, lambda _: [metric]
        try:
            validator = validation.Validator(parts, photographs, codec=PixelCodec())
        finally:
            validation.get_metrics = before
        found, pictures = validator(split(params), "raw")
    scores = {f"{x.metric} {x.degradation}": x.value for x in found}
    # One PSNR is that of bicubic upscaling.
    return scores, len(scored) // 2, pictures


if __name__ == "__main__":
    with connected(f"127.0.0.1:{sys.argv[1]}", int(sys.argv[2]), 2):
        scores, count, pictures = validate()
        sums = {name: int(x.astype(int).sum()) for name, x in pictures.items()}
        print(json.dumps([scores, count, sums]))
