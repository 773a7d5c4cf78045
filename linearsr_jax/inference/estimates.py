"""How much memory and time an image will take, before it is begun."""

import functools
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from linearsr_jax.codecs import Codec
from linearsr_jax.inference.memory_budget import needed_bytes, rows_that_fit
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.linear_dit import LinearDiT

# Share of a large product's FLOP/s that whole images reach: nano 0.47 to 0.58 on two
# cores, by the figures of docs/speed.md.
_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Estimate:
    """The memory and time that an image is expected to take.

    Attributes:
      memory: bytes of a device beside the weights, erring on the large side.
      seconds: without compiling; within a factor of about two on an idle machine.
      rows: rows of latents in a band of the last pass; None if it goes in one piece.
    """

    memory: int
    seconds: float
    rows: int | None

    def __str__(self) -> str:
        how = "" if self.rows is None else ", in bands of rows"
        return f"about {self.memory / 1e9:.1f} GB and {_duration(self.seconds)}{how}"


def estimate_pass(
    model: LinearDiT,
    codec: Codec,
    grid: tuple[int, int],
    budget: int | None,
    *,
    steps: int,
    count: int,
    parts: int,
) -> Estimate:
    """Estimates one pass of the model.

    Args:
      model, codec, grid, budget, count, parts: see `memory_budget.rows_that_fit`.
      steps: network evaluations one after another.
    """
    rows = rows_that_fit(model, codec, grid, budget, count, parts)
    devices = parts if rows is None else 1
    flops = sum(forward_flops(model, grid).values()) * steps * count
    return Estimate(
        needed_bytes(model, codec, grid, rows, count, parts),
        flops / (_EFFICIENCY * product_flops() * devices),
        rows,
    )


@functools.cache
def product_flops() -> float:
    """Measures the FLOP/s of a float32 matrix product on the default device."""
    side = 1024 if jax.default_backend() == "cpu" else 8192
    # No constants, with which an accelerator runs at a higher clock rate than in use.
    matrix = jax.random.normal(jax.random.key(0), (side, side))
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(matrix, matrix))
    start = time.perf_counter()
    jax.block_until_ready(multiply(matrix, matrix))
    return 2 * side**3 / (time.perf_counter() - start)


def _duration(seconds):
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
