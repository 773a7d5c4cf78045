"""What ptxas makes of the GPU kernels; and how its report is read."""

import pytest

from kernels_pallas import aot_gpu

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
