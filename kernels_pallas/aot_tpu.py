"""What the compiler for TPUs makes of the kernels, on any machine.

    python -m kernels_pallas.aot_tpu

prints the bundles of each kernel at the sizes of 1600m, from libtpu for a v5e. A bundle
is what a core starts in one cycle. They are counted as they stand in the program, each
once: nearly all of them are the work on one tile. Needs Python 3.12 and libtpu; no TPU.
"""

import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp

from kernels_pallas import glu_depthwise_conv, linear_attention
from kernels_pallas.testing import compile_for_tpu, value_and_gradients

# Heads, tokens; E, rows and columns. 1600m at 1024 x 1024.
HEADS, TOKENS = 70, 1024
EXPANDED, SIDE = 5600, 32

TOPOLOGY = "v5e:2x2"
# The files of libtpu that hold the count.
_ANALYSES = "*schedule-analysis_final_bundles.txt"


def compile_attention(dtype: str) -> None:
    """Compiles the four kernels: state, output and the gradients of both."""
    attention = functools.partial(linear_attention, implementation="tpu")

    def both_ways(q, k, v, cotangent):
        return value_and_gradients(attention, (q, k, v), cotangent)

    array = jax.ShapeDtypeStruct((1, TOKENS, HEADS, 32), jnp.dtype(dtype))
    compile_for_tpu(TOPOLOGY, both_ways, *[array] * 4)


def compile_glu(dtype: str) -> None:
    """Compiles the two kernels, forward and gradient."""
    operation = functools.partial(glu_depthwise_conv, implementation="tpu")

    def both_ways(x, kernel, bias, cotangent):
        return value_and_gradients(operation, (x, kernel, bias), cotangent)

    shapes = (
        (1, SIDE, SIDE, 2 * EXPANDED),
        (3, 3, 2 * EXPANDED),
        (2 * EXPANDED,),
        (1, SIDE, SIDE, EXPANDED),
    )
    arrays = (jax.ShapeDtypeStruct(s, jnp.dtype(dtype)) for s in shapes)
    compile_for_tpu(TOPOLOGY, both_ways, *arrays)


# What to compile by its name, and how many kernels it has.
PROGRAMS = {
    f"{name} {dtype}": (functools.partial(compile_it, dtype), count)
    for name, compile_it, count in (
        ("linear_attention", compile_attention, 4),
        ("glu_depthwise_conv", compile_glu, 2),
    )
    for dtype in ("bfloat16", "float32")
}


def read_bundles(texts: Iterable[str]) -> dict[str, int]:
    """Reads analyses of libtpu: the bundles of each kernel by its name.

    Args:
      texts: of one operation of the compiled program each, or of the whole of it.
    """
    bundles = {}
    for text in texts:
        # The whole program has a line for each of its kernels.
        kernels = re.findall(r"custom-call.*pallas_call.*", text)
        if len(kernels) == 1:
            name = re.findall(r'op_name="[^"]*?(\w+)\)*/pallas_call"', kernels[0])[0]
            count = re.findall(r"total scheduled bundles: +(\d+)", text)[0]
            bundles[name] = int(count)
    return bundles


def measure(name: str) -> dict[str, int]:
    """Compiles a program of `PROGRAMS` in a process of its own.

    Returns:
      See `read_bundles`.

    Raises:
      RuntimeError: it does not compile; holds what was printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # libtpu reads its flags once.
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        done = subprocess.run(
            [sys.executable, "-m", "kernels_pallas.aot_tpu", name],
            env=os.environ | {"LIBTPU_INIT_ARGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        files = Path(folder).glob(_ANALYSES)
        bundles = read_bundles(path.read_text(errors="replace") for path in files)
    if done.returncode or len(bundles) != PROGRAMS[name][1]:
        raise RuntimeError(f"{name} does not compile:\n{done.stdout}")
    return bundles


def main() -> None:
    """Prints a table, or compiles the one program named."""
    if len(sys.argv) > 1:
        PROGRAMS[sys.argv[1]][0]()
        return
    for name in PROGRAMS:
        for kernel, bundles in sorted(measure(name).items()):
            print(name.split()[1], kernel, bundles, flush=True)


if __name__ == "__main__":
    main()
