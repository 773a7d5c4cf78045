"""What libtpu makes of the TPU kernels; and how its analyses are read."""

import pytest

from kernels_pallas import aot_tpu

ANALYSIS = """Schedule analysis:
	total scheduled bundles:    772
	empty scheduled bundles:    3
	772.00 scheduled bundles (100.00%): %jvp = bf16[1,8] custom-call(%q), \
custom_call_target="tpu_custom_call", \
metadata={op_name="jit(f)/transpose(jvp(output_gradients))/pallas_call"}
"""
OF_ANOTHER_OPERATION = """Schedule analysis:
	total scheduled bundles:    12
	12.00 scheduled bundles (100.00%): %copy = bf16[1,8] copy(%q)
"""


def test_the_analyses_of_libtpu():
    line = ANALYSIS.splitlines()[-1]
    whole_program = f"{ANALYSIS.replace('    772', '    999')}{line}\n"
    texts = [OF_ANOTHER_OPERATION, ANALYSIS, whole_program]
    assert aot_tpu.read_bundles(texts) == {"output_gradients": 772}


@pytest.mark.slow
def test_bfloat16_takes_fewer_passes():
    """One to three products of pieces in place of six, and less cutting."""
    pytest.importorskip("libtpu")
    float32, bfloat16 = (
        aot_tpu.measure(f"linear_attention {dtype}")
        for dtype in ("float32", "bfloat16")
    )
    assert len(float32) == 4
    for name, bundles in float32.items():
        assert bfloat16[name] < 0.55 * bundles
