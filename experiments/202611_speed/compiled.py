"""What XLA plans for 1600m on an H100, with its blocks in a loop and unrolled.

    JAX_PLATFORMS=cpu python experiments/202611_speed/compiled.py

needs no GPU, but what `kernels_pallas.absent.gpu_devices` needs. One evaluation at
1024 x 1024 in bfloat16; prints a line of JSON for each way.
"""

import json
import math
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels_pallas.testing import compile_for_gpu
from linearsr_jax.benchmarks.forward import make_condition
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.models.layers import cast_kernels
from linearsr_jax.models.presets import get_preset

DEPTH = get_preset("1600m").depth
SIDE = 32  # Of the latents: 1024 x 1024 pixels.


class Network(NamedTuple):
    """A compiled network, and the shapes of its weights."""

    params: PyTree
    compiled: Any  # jax.stages.Compiled


def compile_network(*, gradient: bool = False, **how: Any) -> Network:
    """Compiles an evaluation of 1600m in bfloat16, or its gradient in all weights."""
    preset = get_preset("1600m")
    model = preset.make_model(dtype=jnp.bfloat16, **how)

    def draw(key):
        return cast_kernels(model.init_params(key), model.dtype)

    def project(params, condition):
        return model.apply({"params": params}, condition, method="project_condition")

    def denoise(params, *inputs):
        return model.apply({"params": params}, *inputs, method="denoise")

    params = jax.eval_shape(draw, jax.random.key(0))
    condition = jax.eval_shape(lambda: make_condition(model, preset))
    side = math.prod(model.stem_strides) * SIDE
    inputs = (
        jax.ShapeDtypeStruct((1, SIDE, SIDE, model.latent_channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
        jax.eval_shape(project, params, condition),
    )
    if not gradient:
        return Network(params, compile_for_gpu(denoise, params, *inputs))

    def loss(params, target, *inputs):
        return jnp.mean(jnp.square(denoise(params, *inputs) - target))

    compiled = compile_for_gpu(jax.grad(loss), params, inputs[0], *inputs)
    return Network(params, compiled)


def copied_weights(network: Network) -> list[tuple[int, ...]]:
    """Lists the layers' products that a kernel of its own writes to memory."""
    layers = {
        x.shape[1:]
        for x in jax.tree.leaves(network.params["blocks"])
        if x.ndim == 3 and x.dtype == jnp.bfloat16
    }
    lines = "\n".join(
        line
        for computation in launched(network.compiled)
        for line in computation.splitlines()
        # A product with one vector, which XLA multiplies out before it adds up; its
        # matrix happens to have the shape of a layer's.
        if "/time_embed/" not in line
    )
    written = re.findall(
        r"bf16\[(?:1,)?([\d,]+)\]\S* (?:copy|fusion|fusion-done|dynamic-slice|slice)\(",
        lines,
    )
    shapes = [tuple(map(int, shape.split(","))) for shape in written]
    return [shape for shape in shapes if shape in layers]


def launched(compiled: Any) -> list[str]:
    """Finds the computations whose instructions are kernels: the entry and the loop.

    Not those inside a kernel, where a product reads a slice in place.
    """
    computations = re.split(r"\n(?=%|ENTRY)", compiled.as_text())
    return [c for c in computations if c.startswith(("ENTRY", "%region"))]


def count_launches(compiled: Any) -> int:
    """Counts the kernels and copies of an evaluation; those of a loop DEPTH times."""
    count = 0
    for computation in launched(compiled):
        kernels = re.findall(r" (?:fusion|custom-call|copy)\(", computation)
        count += len(kernels) * (1 if computation.startswith("ENTRY") else DEPTH)
    return count


def main() -> None:
    """Prints both ways."""
    for how in (
        {"implementation": "reference", "scan_unroll": 1},
        {"implementation": "gpu", "scan_unroll": 1},
        {"implementation": "gpu", "scan_unroll": DEPTH},
    ):
        start = time.perf_counter()
        network = compile_network(**how)
        seconds = time.perf_counter() - start
        copies = copied_weights(network)
        per_loop = DEPTH if how["scan_unroll"] == 1 else 1
        memory = network.compiled.memory_analysis()
        row = {
            "copies_of_weights": len(copies) * per_loop,
            "mb_of_copies": 2 * sum(map(math.prod, copies)) * per_loop / 1e6,
            "launches": count_launches(network.compiled),
            "mb_of_temporaries": round(memory.temp_size_in_bytes / 1e6, 1),
            "seconds_to_compile": round(seconds, 1),
        }
        print(json.dumps(how | row), flush=True)


if __name__ == "__main__":
    main()
