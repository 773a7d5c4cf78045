"""What the compilers for NVIDIA GPUs make of the kernels, on any machine.

    python -m kernels_pallas.aot_gpu

prints the registers and the spilled bytes of each kernel at the sizes of 1600m, from
ptxas for an H100. Needs Python 3.12, jax 0.11 and the packages jax-cuda13-plugin and
jax-cuda13-pjrt of the same version with their wheels of CUDA; no GPU.
"""

import functools
import os
import re
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kernels_pallas import glu_depthwise_conv, linear_attention_qkv
from kernels_pallas.testing import compile_for_gpu, value_and_gradients

# Heads, tokens; E, rows and columns. 1600m at 1024 x 1024.
HEADS, TOKENS = 70, 1024
EXPANDED, SIDE = 5600, 32


class Resources(NamedTuple):
    """Of one kernel, as ptxas reports them.

    Attributes:
      registers: registers of a thread; 255 is the most.
      spill_stores, spill_loads: bytes that did not fit into registers.
    """

    registers: int
    spill_stores: int
    spill_loads: int


def read_ptxas(text: str) -> list[Resources]:
    """Reads what ptxas -v printed, a kernel after the other."""
    pattern = (
        r"(\d+) bytes spill stores, (\d+) bytes spill loads"
        r"\s+ptxas info\s*: Used (\d+) registers"
    )
    return [
        Resources(int(registers), int(stores), int(loads))
        for stores, loads, registers in re.findall(pattern, text)
    ]


def compile_attention() -> None:
    """Compiles the four kernels: state, output and the gradients of both."""
    attention = functools.partial(
        linear_attention_qkv, heads=HEADS, implementation="gpu"
    )

    def both_ways(qkv, cotangent):
        return value_and_gradients(attention, (qkv,), cotangent)

    width = HEADS * 32
    qkv = jax.ShapeDtypeStruct((1, TOKENS, 3 * width), jnp.bfloat16)
    cotangent = jax.ShapeDtypeStruct((1, TOKENS, HEADS, 32), jnp.bfloat16)
    compile_for_gpu(both_ways, qkv, cotangent)


def compile_glu(dtype: str) -> None:
    """Compiles the two kernels, forward and gradient."""
    operation = functools.partial(glu_depthwise_conv, implementation="gpu")

    def both_ways(x, kernel, bias, cotangent):
        return value_and_gradients(operation, (x, kernel, bias), cotangent)

    shapes = (
        (1, SIDE, SIDE, 2 * EXPANDED),
        (3, 3, 2 * EXPANDED),
        (2 * EXPANDED,),
        (1, SIDE, SIDE, EXPANDED),
    )
    compile_for_gpu(both_ways, *(jax.ShapeDtypeStruct(s, dtype) for s in shapes))


# What to compile by its name, and how many kernels it has.
PROGRAMS = {
    "linear_attention bfloat16": (compile_attention, 4),
    "glu_depthwise_conv bfloat16": (functools.partial(compile_glu, "bfloat16"), 2),
    "glu_depthwise_conv float32": (functools.partial(compile_glu, "float32"), 2),
}


def measure(name: str) -> list[Resources]:
    """Compiles a program of `PROGRAMS` in a process of its own.

    Returns:
      Each kernel's resources, in the order in which they were compiled.

    Raises:
      RuntimeError: it does not compile; holds what was printed.
    """
    # ptxas writes to the file descriptor, which only another process can catch.
    environment = os.environ | {"MOSAIC_GPU_DUMP_PTXAS": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "kernels_pallas.aot_gpu", name]
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    kernels = read_ptxas(done.stdout)
    if done.returncode or len(kernels) != PROGRAMS[name][1]:
        raise RuntimeError(f"{name} does not compile:\n{done.stdout}")
    return kernels


def main() -> None:
    """Prints a table, or compiles the one program named."""
    if len(sys.argv) > 1:
        PROGRAMS[sys.argv[1]][0]()
        return
    for name in PROGRAMS:
        for kernel in measure(name):
            print(name, *(f"{k}={v}" for k, v in kernel._asdict().items()))


if __name__ == "__main__":
    main()
