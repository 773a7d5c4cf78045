"""What the compilers for NVIDIA GPUs make of the kernels, on any machine.

    python -m kernels_pallas.aot_gpu

prints the registers, the spilled bytes and the shared memory of each kernel at the
sizes of 1600m, from ptxas for an H100 and from Mosaic's launches. Needs Python 3.12,
jax 0.11 and the packages jax-cuda13-plugin and jax-cuda13-pjrt of the same version with
their wheels of CUDA; no GPU.
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
    """Of one kernel.

    Attributes:
      registers: registers of a thread; 255 is the most.
      spill_stores, spill_loads: bytes that did not fit into registers.
      shared_bytes: shared memory of a block, beside a few bytes of its own; 227 KiB is
        the most, and what two blocks take must fit for them to share a multiprocessor.
    """

    registers: int
    spill_stores: int
    spill_loads: int
    shared_bytes: int


def read_resources(text: str) -> list[Resources]:
    """Reads what ptxas -v and Mosaic printed, a kernel after the other.

    Raises:
      ValueError: they printed of different numbers of kernels.
    """
    pattern = (
        r"(\d+) bytes spill stores, (\d+) bytes spill loads"
        r"\s+ptxas info\s*: Used (\d+) registers"
    )
    # Sizes of grid, cluster and block, three each, and the shared memory.
    launch = r"mosaic_gpu_build_kernel_spec\(ptr %\d+(?:, i32 \d+){9}, i32 (\d+)"
    found = re.findall(pattern, text), re.findall(launch, text)
    return [
        Resources(int(registers), int(stores), int(loads), int(shared))
        for (stores, loads, registers), shared in zip(*found, strict=True)
    ]


def measure(name: str) -> list[Resources]:
    """Compiles a program of `PROGRAMS` in a process of its own.

    Returns:
      Each kernel's resources, in the order in which they were compiled.

    Raises:
      RuntimeError: it does not compile, or ptxas reported on other kernels; holds what
        was printed.
    """
    wanted = {"MOSAIC_GPU_DUMP_PTXAS": "1", "MOSAIC_GPU_DUMP_HOST_LLVM": "1"}
    printed = run_alone("kernels_pallas.aot_gpu", name, **wanted)
    kernels = read_resources(printed)
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
