"""What the compilers for NVIDIA GPUs make of the kernels, on any machine.

    python -m kernels_pallas.aot_gpu

prints the registers and the spilled bytes of each kernel at the sizes of 1600m, from
ptxas for an H100. Needs Python 3.12, jax 0.11 and the packages jax-cuda13-plugin and
jax-cuda13-pjrt of the same version with their wheels of CUDA; no GPU.
"""

import re
import sys
from typing import NamedTuple

from kernels_pallas.aot_programs import attention, glu, run_alone
from kernels_pallas.testing import compile_for_gpu

# The programs by their names.
PROGRAMS = {
    "linear_attention bfloat16": attention("gpu", "bfloat16"),
    "glu_depthwise_conv bfloat16": glu("gpu", "bfloat16"),
    "glu_depthwise_conv float32": glu("gpu", "float32"),
    # Forward in bands of 4 and 8 rows. Those above have 2.
    "glu_depthwise_conv bfloat16 64x64": glu("gpu", "bfloat16", 64),
    "glu_depthwise_conv bfloat16 128x128": glu("gpu", "bfloat16", 128),
    # More than 2^32 elements, where offsets have 64 bits.
    "glu_depthwise_conv bfloat16 640x640": glu("gpu", "bfloat16", 640),
    "glu_depthwise_conv float32 64x64": glu("gpu", "float32", 64),
    "glu_depthwise_conv float32 128x128": glu("gpu", "float32", 128),
}


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


def measure(name: str) -> list[Resources]:
    """Compiles a program of `PROGRAMS` in a process of its own.

    Returns:
      Each kernel's resources, in the order in which they were compiled.

    Raises:
      RuntimeError: it does not compile, or ptxas reported on other kernels; holds what
        was printed.
    """
    printed = run_alone("kernels_pallas.aot_gpu", name, MOSAIC_GPU_DUMP_PTXAS="1")
    kernels = read_ptxas(printed)
    if len(kernels) != PROGRAMS[name].kernels:
        raise RuntimeError(
            f"{name}: ptxas reported on {len(kernels)} kernels:\n{printed}"
        )
    return kernels


def main() -> None:
    """Prints a table, or compiles the one program named."""
    if len(sys.argv) > 1:
        program = PROGRAMS[sys.argv[1]]
        compile_for_gpu(program.function, *program.shapes)
        return
    for name in PROGRAMS:
        for kernel in measure(name):
            print(name, *(f"{k}={v}" for k, v in kernel._asdict().items()))


if __name__ == "__main__":
    main()
