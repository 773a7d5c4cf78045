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
LAUNCH = (
    "call void @mosaic_gpu_build_kernel_spec(ptr %0, i32 4, i32 35, i32 1, i32 0, "
    "i32 0, i32 0, i32 128, i32 1, i32 1, i32 {}, i32 0, i32 1, ptr %424, ptr %426)\n"
)


def test_the_reports_of_ptxas_and_mosaic():
    printed = LAUNCH.format(81936) + REPORT + LAUNCH.format(0)
    found = aot_gpu.read_resources(printed)
    assert found == [(96, 0, 0, 81936), (255, 528, 536, 0)]
    with pytest.raises(ValueError, match="shorter"):
        aot_gpu.read_resources(REPORT + LAUNCH)


@pytest.mark.slow
@pytest.mark.parametrize("name", aot_gpu.PROGRAMS)
def test_nothing_is_spilled(name):
    pytest.importorskip("jax_cuda13_plugin", reason="compiles with jax's CUDA packages")
    for kernel in aot_gpu.measure(name):
        assert kernel.spill_stores == kernel.spill_loads == 0
        assert kernel.registers <= 255
        # Of a multiprocessor 227 KiB can be one block's.
        assert kernel.shared_bytes <= 227 * 1024


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
