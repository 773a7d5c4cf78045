"""Writes parameters, FLOPs and CPU seconds of the three networks to a JSON file.

python experiments/202611_attention/costs.py OUT.json

Seconds are of CPU time, which other work on the machine changes less than the clock's.
"""

import itertools
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import variants

from linearsr_jax.models.embeddings import TIMESTEP_FEATURES
from linearsr_jax.models.presets import Preset, get_preset

# Tokens a side: of training crops, and of larger images.
SIDES = (24, 48, 128)
REPEATS = {24: 15, 48: 9, 128: 2}


def count_flops(variant: str, preset: Preset, tokens: int) -> int:
    """FLOPs of one image's forward pass: two for each product of a matrix, a
    convolution or attention; nothing for norms, activations, exponentials and sums.

    Args:
      variant: whose self-attention.
      preset: its sizes; of a pixel preset, and without tags.
      tokens: N.
    """
    width, head_size = preset.width, preset.width // preset.heads
    channels = (3, *preset.stem_widths)
    stem = sum(9 * a * b for a, b in itertools.pairwise(channels))
    patch_embed = (preset.latent_channels + channels[-1]) * width
    expanded = int(preset.mlp_ratio * width)
    ffn = 3 * width * expanded + 9 * 2 * expanded
    projections = 4 * width**2
    attention = {
        # The state and its application, numerator and denominator.
        "linear": projections + 2 * width * head_size + width,
        "softmax": projections + 2 * tokens * width,
        "none": 0,
    }[variant]
    head = width * preset.latent_channels
    per_token = stem + patch_embed + preset.depth * (attention + ffn) + head
    time_embedding = TIMESTEP_FEATURES * width + 7 * width**2
    return 2 * (tokens * per_token + time_embedding)


def count_parameters(params: dict) -> int:
    """Without those of tags, which no run has seen."""
    trunk = {k: v for k, v in params.items() if k != "condition"}
    trunk["blocks"] = {
        k: v for k, v in params["blocks"].items() if k != "cross_attention"
    }
    return sum(x.size for x in jax.tree.leaves(trunk))


def measure(variant: str) -> dict:
    """One row: the network's numbers, and those of each side."""
    preset = get_preset(variants.preset_name(variant))
    model = preset.make_model()
    # XLA counts the body of a loop once: over depth it is unrolled here, and softmax
    # has none over queries at the side of training.
    unrolled = preset.make_model(scan_unroll=preset.depth)
    with variants.attending(variant):
        params = jax.jit(model.init_params)(jax.random.key(0))
        row = {
            "depth": preset.depth,
            "parameters": count_parameters(params),
            "sides": {},
        }
        for side in SIDES:
            inputs = (
                {"params": params},
                jax.random.normal(jax.random.key(1), (1, side, side, 48)),
                jnp.ones(1),
                jax.random.uniform(jax.random.key(2), (1, side, side, 3)),
            )
            if side == SIDES[0]:
                counted = jax.jit(unrolled.apply).lower(*inputs).cost_analysis()
                row["gflops_by_xla"] = counted["flops"] / 1e9
            apply = jax.jit(model.apply)
            # The first run compiles, the second still pays for memory.
            seconds = []
            for _ in range(REPEATS[side] + 2):
                start = time.process_time()
                jax.block_until_ready(apply(*inputs))
                seconds.append(time.process_time() - start)
            row["sides"][side] = {
                "gflops": count_flops(variant, preset, side**2) / 1e9,
                "seconds": statistics.median(seconds[2:]),
            }
            print(variant, side, row["sides"][side], flush=True)
    return row


def main(out: str) -> None:
    """Writes the rows of all variants."""
    rows = {variant: measure(variant) for variant in variants.DEPTHS}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
