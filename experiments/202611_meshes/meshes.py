"""Trains debug on every mesh of one to eight simulated devices, and compares.

python experiments/202611_meshes/meshes.py

Takes two steps of gradient descent with eight experts, from the same state on the same
samples, on all 35 meshes whose axes are powers of two. Writes results.json and the
table of README.md.
"""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import jax
import numpy as np
import optax

from configs import debug
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.plan.collectives import count_collectives
from linearsr_jax.training.expert_axis import over_experts
from linearsr_jax.training.initial_state import StartState
from linearsr_jax.training.setup import make_parts
from linearsr_jax.training.sharding import AXES, own_samples, put_expert_batch
from linearsr_jax.training.step import make_train_step

HERE = Path(__file__).parent
DEVICES, STEPS, EXPERTS, BATCH, CROP = 8, 2, 8, 8, 32
# Of AXES: a single device, which the others are compared with.
ALONE = (1, 1, 1, 1)


def make_config(sizes: tuple[int, ...]):
    """Makes the config of debug for a mesh."""
    config = debug.get_config()
    config.data.folder = "unused"
    config.data.crop_size, config.batch_size = CROP, BATCH
    config.expert_boundaries = tuple(i / EXPERTS for i in range(1, EXPERTS))
    config.mesh.update(dict(zip(AXES, sizes, strict=True)))
    return config


def draw_samples() -> dict[str, np.ndarray]:
    """Draws the samples of all experts."""
    rng = np.random.default_rng(0)
    sides = {"image_hr": CROP, "image_lr": CROP // 4}
    return {
        name: rng.integers(0, 256, (EXPERTS * BATCH, side, side, 3), dtype=np.uint8)
        for name, side in sides.items()
    }


def train(sizes: tuple[int, ...]) -> tuple[list[float], list[np.ndarray], dict]:
    """Takes the steps; returns the losses, the parameters and the collectives."""
    devices = jax.devices()[: math.prod(sizes)]
    # Gradient descent: Adam would turn the rounding of a gradient near zero into a
    # step of full size.
    parts = make_parts(make_config(sizes), devices)
    parts = dataclasses.replace(parts, optimizer=optax.sgd(0.1))
    with jax.set_mesh(parts.mesh):
        start = StartState(parts)
        step = make_train_step(parts.loss, parts.optimizer, seed=0)
        jitted = jax.jit(over_experts(step), out_shardings=(start.shardings, None))
        own = own_samples(parts.mesh, EXPERTS, BATCH)
        samples = {name: x[own] for name, x in draw_samples().items()}
        batch = put_expert_batch(samples, parts.mesh, EXPERTS, BATCH)
        state, losses = start.random(), []
        compiled = jitted.lower(state, batch, PixelCodec()).compile()
        for _ in range(STEPS):
            state, metrics = compiled(state, batch, PixelCodec())
            losses.append(float(metrics.loss.compute()))
        params = [np.asarray(x) for x in jax.tree.leaves(state.params)]
    return losses, params, count_collectives(compiled.as_text())


def list_meshes() -> list[tuple[int, ...]]:
    """Lists all meshes, the smallest first."""
    powers = (1, 2, 4, 8)
    every = itertools.product(powers, repeat=len(AXES))
    return sorted((x for x in every if math.prod(x) <= DEVICES), key=math.prod)


def write_table(rows: list[dict]) -> None:
    """Puts the rows into README.md."""
    kinds = sorted({kind for row in rows for kind in row["collectives"]})
    head = [*AXES, "loss differs by", "parameters differ by", *kinds]
    lines = [f"| {' | '.join(head)} |", f"| {'--: | ' * len(head)}".rstrip()]
    for row in rows:
        counts = [row["collectives"].get(kind, {}).get("count", 0) for kind in kinds]
        cells = [
            *row["mesh"],
            f"{row['loss']:.0e}",
            f"{row['parameters']:.0e}",
            *counts,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    page = HERE / "README.md"
    before, rest = page.read_text().split("<!-- table -->\n")
    after = rest.split("<!-- end -->")[1]
    table = "\n".join(lines)
    page.write_text(f"{before}<!-- table -->\n{table}\n<!-- end -->{after}")


def main() -> None:
    """Compares every mesh with one device."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    losses, params, _ = train(ALONE)
    rows = []
    for sizes in list_meshes():
        found = train(sizes)
        row = {
            "mesh": sizes,
            # The largest change of a loss, as a share of it, and of a parameter, as a
            # share of the largest one in its array.
            "loss": max(
                abs(a - b) / abs(b) for a, b in zip(found[0], losses, strict=True)
            ),
            "parameters": max(
                float(np.abs(a - b).max() / np.abs(b).max())
                for a, b in zip(found[1], params, strict=True)
                if b.any()
            ),
            "collectives": found[2],
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    write_table(rows)


if __name__ == "__main__":
    main()
