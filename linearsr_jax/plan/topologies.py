"""Names accelerators that are not here, so that programs can be compiled for them.

TPUs: the pages cloud.google.com/tpu/docs/v4, v5e, v5p and v6e; the higher number where
their editions differ, since a bound on the time must not be too long. v4's links are
from N. P. Jouppi et al., TPU v4 (2023); its network is not published, so v5p's stands
there. GPUs: NVIDIA's data sheets of the H100 and H200 SXM; the products that they list
are with sparsity, which is twice these.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from kernels_pallas.absent import GPUS, gpu_devices, tpu_devices
from linearsr_jax.core.errors import LinearSRError


class PlanError(LinearSRError, ValueError):
    """Raised for a topology that is unknown or cannot be compiled for; one line."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """The upper limits of a chip.

    Attributes:
      name: name of the chip.
      memory: bytes of high-bandwidth memory. Google's GB are GiB, and CUDA reports more
        of a GPU than its name says.
      flops: bfloat16 operations a second.
      bandwidth: bytes a second to and from that memory.
      link: bytes a second to all neighbours together, in one direction.
      network: bytes a second to other slices or nodes, in one direction.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    network: float


# GPUs that NVLink connects; between nodes links are slower by far.
_NODE = 8

CHIPS = {
    "v4": Chip("TPU v4", 32 * 2**30, 275e12, 1.2e12, 300e9, 6.25e9),
    "v5e": Chip("TPU v5e", 16 * 2**30, 197e12, 0.819e12, 200e9, 3.125e9),
    "v5p": Chip("TPU v5p", 95 * 2**30, 459e12, 2.765e12, 600e9, 6.25e9),
    "v6e": Chip("TPU v6e", 32 * 2**30, 918e12, 1.64e12, 448e9, 12.5e9),
    "h100": Chip("NVIDIA H100 SXM", 84_929_347_584, 989e12, 3.35e12, 450e9, 50e9),
    "h200": Chip("NVIDIA H200 SXM", 150_109_880_320, 989e12, 4.8e12, 450e9, 50e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips that are connected.

    Attributes:
      name: as the user wrote it.
      chip: what each chip can do.
      count: number of chips in all slices.
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
                if self.name.startswith(tuple(GPUS))
                else "libtpu (the extra aot)"
            )
            raise PlanError(
                f"{self.name}: cannot be compiled for: {text}. It needs {needs}"
            ) from error


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads a topology such as v5e:4x4, v5p:4x4x4 or h200:8.

    Args:
      name: the chip and the shape of a slice.
      slices: how many such slices of TPUs the network connects.

    Raises:
      PlanError: it has another form, an unknown chip, or slices of GPUs.
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
    if found[1] in GPUS:
        if slices > 1:
            raise PlanError(f"topology {name!r}: only TPUs come in slices")
        if count > _NODE:
            raise PlanError(f"topology {name!r}: a node has at most {_NODE} GPUs")
        return Topology(name, chip, count, lambda: gpu_devices(found[1], count))
    shape = f"{found[1]}:{found[2]}"
    return Topology(name, chip, slices * count, lambda: tpu_devices(shape, slices))
