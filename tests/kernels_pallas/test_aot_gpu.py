"""What ptxas makes of the GPU kernels; and how its report is read."""

import re

import pytest

from kernels_pallas import aot_gpu
from kernels_pallas.aot_programs import EXPANDED, run_alone

REPORT = """
ptxas info    : Function properties for kernel_mosaic_gpu_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 2 barriers, 1 bytes smem
ptxas warning : Registers are spilled to local memory in function 'kernel', \
528 bytes spill stores, 536 bytes spill loads
ptxas info    : Function properties for kernel_mosaic_gpu_kernel
    528 bytes stack frame, 528 bytes spill stores, 536 bytes spill loads
ptxas info    : Used 255 registers, used 2 barriers, 528 bytes cumulative stack size
"""


def test_the_report_of_ptxas():
    assert aot_gpu.read_ptxas(REPORT) == [(96, 0, 0), (255, 528, 536)]


@pytest.mark.slow
@pytest.mark.parametrize("name", aot_gpu.PROGRAMS)
def test_nothing_is_spilled(name):
    pytest.importorskip("jax_cuda13_plugin", reason="compiles with jax's CUDA packages")
    for kernel in aot_gpu.measure(name):
        assert kernel.spill_stores == kernel.spill_loads == 0
        assert kernel.registers <= 255


@pytest.mark.slow
@pytest.mark.parametrize(("side", "is_wide"), [(128, False), (640, True)])
def test_offsets_beyond_32_bits_have_64(side, is_wide):
    """The row's number times its bytes: a product of 32 bits would wrap around."""
    pytest.importorskip("jax_cuda13_plugin", reason="compiles with jax's CUDA packages")
    name = f"glu_depthwise_conv bfloat16 {side}x{side}"
    printed = run_alone("kernels_pallas.aot_gpu", name, MOSAIC_GPU_DUMP_PTX="1")
    row_bytes = side * 2 * EXPANDED * 2
    products = re.findall(rf"mul.wide.u32.*, {row_bytes};", printed)
    assert bool(products) == is_wide
