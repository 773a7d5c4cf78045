"""The numbers of the kernels that only a measurement can choose, by device.

A kernel asks `tuned` for its own while it is traced. To enter what was measured on a
device, add a row to `TUNED`. Stage `tune` of experiments/202611_speed times others.
"""

import contextlib
import contextvars
import dataclasses
import re
from collections.abc import Generator
from typing import TypeVar

from kernels_pallas.dispatch import HOPPER, target_device

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AttentionOnGpu:
    """Of linear_attention/gpu.py.

    Attributes:
      steps: the most tiles of 64 tokens that a block of threads takes. More means
        fewer blocks, and fewer partial states to add up; it takes fewer where there
        would be fewer blocks than multiprocessors.
      stages: steps whose copies from and to global memory may be under way together.
    """

    steps: int
    stages: int


@dataclasses.dataclass(frozen=True)
class AttentionOnTpu:
    """Of linear_attention/tpu.py.

    Attributes:
      tokens: of a tile, a multiple of 16, the rows of a bfloat16 register. In float32 a
        v5e has VMEM for 2,048; 4,096 do not compile (`output_gradients`).
    """

    tokens: int


@dataclasses.dataclass(frozen=True)
class GluOnGpu:
    """Of glu_depthwise_conv/gpu.py.

    Attributes:
      channels: of a program forward, 128 or 256: a thread has one or two. The gradient
        has one, since it keeps about 100 values a channel in registers, of which a
        thread has 255.
      rows: of a band forward, most first. It takes the first number that leaves two
        programs for each multiprocessor: more rows load fewer rows twice, and leave
        fewer programs.
      gradient_bands: of two rows, that a gradient program takes one after the other,
        adding up the weights' gradient; chosen like rows. More of them write less, and
        leave fewer programs.
    """

    channels: int
    rows: tuple[int, ...]
    gradient_bands: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GluOnTpu:
    """Of glu_depthwise_conv/tpu.py.

    Attributes:
      channels: of a program, a multiple of 128, the lanes of a register.
      rows: of a program, at most, two or more. The gradient rounds down to its halo of
        two rows, and wide images get fewer.
      vmem_bytes: for the blocks (twice, since the next one loads meanwhile) and
        scratch. Compilers grant 16 MiB on the smallest devices and need some for
        themselves.
    """

    channels: int
    rows: int
    vmem_bytes: int


# (regular expression of device kinds, values). Of a type the first row counts that
# matches the device; where none does, as on the CPUs that interpret kernels, its first
# row. Nothing was measured yet; the values come from what the compilers say.
TUNED: tuple[tuple[str, object], ...] = (
    (HOPPER, AttentionOnGpu(steps=16, stages=2)),
    (HOPPER, GluOnGpu(channels=256, rows=(8, 4, 2), gradient_bands=(4, 2, 1))),
    ("TPU.*", AttentionOnTpu(tokens=512)),
    ("TPU.*", GluOnTpu(channels=128, rows=16, vmem_bytes=11 * 2**20)),
)

_tried: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar(
    "tried", default=()
)


def tuned(kind: type[T]) -> T:
    """Looks up the values of a kernel for the target device.

    Args:
      kind: the type of what is wanted, such as GluOnGpu.
    """
    device = target_device().device_kind
    rows = sorted(TUNED, key=lambda row: not re.fullmatch(row[0], device))
    candidates = (*_tried.get(), *(values for _, values in rows))
    return next(values for values in candidates if isinstance(values, kind))


@contextlib.contextmanager
def trying(values: object) -> Generator[None]:
    """Makes a context in which kernels that are traced have these values.

    What jax.jit compiled before keeps the values that it was traced with.
    """
    token = _tried.set((values, *_tried.get()))
    try:
        yield
    finally:
        _tried.reset(token)
