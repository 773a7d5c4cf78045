"""What the compiler for TPUs makes of the kernels, on any machine.

    python -m kernels_pallas.aot_tpu

prints the bundles of each kernel at the sizes of 1600m, from libtpu for a v5e. A bundle
is what a core starts in one cycle. They are counted as they stand in the program, each
once: nearly all of them are the work on one tile. Needs Python 3.12 and libtpu; no TPU.
"""

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kernels_pallas.aot_programs import attention, glu, run_alone
from kernels_pallas.testing import compile_for_tpu

TOPOLOGY = "v5e:2x2"
# The programs by their names.
PROGRAMS = {
    "linear_attention bfloat16": attention("tpu", "bfloat16"),
    "linear_attention float32": attention("tpu", "float32"),
    "glu_depthwise_conv bfloat16": glu("tpu", "bfloat16"),
    "glu_depthwise_conv float32": glu("tpu", "float32"),
}
# The files of libtpu that hold the count.
_ANALYSES = "*schedule-analysis_final_bundles.txt"


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
      RuntimeError: it does not compile, or libtpu reported on other kernels; holds what
        was printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        printed = run_alone("kernels_pallas.aot_tpu", name, LIBTPU_INIT_ARGS=flags)
        files = Path(folder).glob(_ANALYSES)
        bundles = read_bundles(path.read_text(errors="replace") for path in files)
    if len(bundles) != PROGRAMS[name].kernels:
        raise RuntimeError(
            f"{name}: libtpu reported on {len(bundles)} kernels:\n{printed}"
        )
    return bundles


def main() -> None:
    """Prints a table, or compiles the one program named."""
    if len(sys.argv) > 1:
        program = PROGRAMS[sys.argv[1]]
        compile_for_tpu(TOPOLOGY, program.function, *program.shapes)
        return
    for name in PROGRAMS:
        for kernel, bundles in sorted(measure(name).items()):
            print(name.split()[1], kernel, bundles, flush=True)


if __name__ == "__main__":
    main()
