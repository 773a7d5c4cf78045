"""Choose XLA's flags for the tests. This imports no JAX, which reads them only once."""

import os
from importlib.metadata import version

# Compiling is most of what the tests do: leave LLVM's optimiser out of it, and do not
# cut programs into pieces for more cores than a test has.
_COMPILE_FAST = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_parallel_codegen_split_count": "1",
}
if version("jaxlib").startswith("0.10."):
    # The older way to emit a fused loop compiles a training step in a third of the
    # time. jax 0.12 refuses the flag.
    _COMPILE_FAST["xla_cpu_use_fusion_emitters"] = "false"


def make_xla_flags(devices: int) -> str:
    """Makes a value of XLA_FLAGS from the present one.

    Programs are compiled fast instead of well, unless the present value names an
    optimisation level.

    Args:
      devices: how many CPU devices to simulate.
    """
    given = [
        flag
        for flag in os.environ.get("XLA_FLAGS", "").split()
        if "device_count" not in flag
    ]
    chosen = {"xla_force_host_platform_device_count": str(devices)}
    if not any("xla_backend_optimization_level" in flag for flag in given):
        chosen |= _COMPILE_FAST
    return " ".join([*given, *(f"--{name}={value}" for name, value in chosen.items())])
