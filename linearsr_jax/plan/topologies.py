"""Names accelerators that are not here, so that programs can be compiled for them.

Peaks are the manufacturers': Google's pages on the system architecture of Cloud TPUs,
and NVIDIA's data sheets of the SXM boards, dense bfloat16.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any


class PlanError(ValueError):
    """Raised for a topology that is unknown or cannot be compiled for; one line."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do at most.

    Attributes:
      name: name of the chip.
      memory: bytes of high-bandwidth memory.
      flops: bfloat16 operations a second.
      bandwidth: bytes a second to and from that memory.
      link: bytes a second to all neighbours together, in one direction.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    link: float


CHIPS = {
    "v4": Chip("TPU v4", 32 * 2**30, 275e12, 1.2e12, 300e9),
    "v5e": Chip("TPU v5e", 16 * 2**30, 197e12, 0.82e12, 200e9),
    "v5p": Chip("TPU v5p", 95 * 2**30, 459e12, 2.765e12, 600e9),
    "v6e": Chip("TPU v6e", 32 * 2**30, 918e12, 1.6e12, 400e9),
    "h100": Chip("NVIDIA H100 SXM", 80 * 10**9, 989e12, 3.35e12, 450e9),
    "h200": Chip("NVIDIA H200 SXM", 141 * 10**9, 989e12, 4.8e12, 450e9),
}
# Chips that XLA's GPU compiler takes, and their streaming multiprocessors.
_GPUS = ("h100", "h200")

# What libtpu wants to know on a machine that is no TPU host.
_WITHOUT_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# What XLA wants to know of a GPU that is not there: the limits of compute capability
# 9.0 in NVIDIA's CUDA programming guide.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
runtime_version {{ major: 13 minor: 0 patch: 0 }}
dnn_version_info {{ major: 9 minor: 12 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips that are connected.

    Attributes:
      name: as the user wrote it.
      chip: what each chip can do.
      count: number of chips.
      describe: returns the devices to compile for, and needs what the compiler needs.
    """

    name: str
    chip: Chip
    count: int
    describe: Callable[[], Sequence[Any]]

    def devices(self) -> Sequence[Any]:
        """Describes the devices, which can be compiled for and run nothing.

        Raises:
          PlanError: the compiler is missing, or does not know the topology.
        """
        try:
            return self.describe()
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            needs = (
                "jax >= 0.11 with jax-cuda13-plugin and jax-cuda13-pjrt"
                if self.name.startswith(_GPUS)
                else "libtpu (the extra aot)"
            )
            raise PlanError(
                f"{self.name}: cannot be compiled for: {text}. It needs {needs}"
            ) from error


def parse_topology(name: str) -> Topology:
    """Reads a topology such as v5e:4x4, v5p:4x4x4 or h200:8.

    Raises:
      PlanError: it has another form, or an unknown chip.
    """
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", name.lower().strip())
    if not found or found[1] not in CHIPS:
        raise PlanError(
            f"topology {name!r} must be CHIP:SIZE, such as v5e:4x4, v5p:4x4x4 or "
            f"h200:8; the chips are {', '.join(CHIPS)}"
        )
    sizes = [int(size) for size in found[2].split("x")]
    count, chip = math.prod(sizes), CHIPS[found[1]]
    if not count:
        raise PlanError(f"topology {name!r} has no chips")
    if found[1] in _GPUS:
        return Topology(name, chip, count, lambda: _gpus(chip, count))
    return Topology(name, chip, count, lambda: _tpus(f"{found[1]}:{found[2]}"))


def _tpus(name: str) -> Sequence[Any]:
    from jax.experimental import topologies

    for variable, value in _WITHOUT_TPU.items():
        os.environ.setdefault(variable, value)
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


def _gpus(chip: Chip, count: int) -> Sequence[Any]:
    from jax.experimental import topologies

    config = _HOPPER.format(**dataclasses.asdict(chip))
    description: Any = topologies.get_topology_desc(
        chip.name, "cuda", target_config=config, topology=f"1x1x{count}"
    )
    return description.devices
