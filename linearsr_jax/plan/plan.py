"""What every plan says, of training or of upscaling.

The program is compiled for the real chips, so its memory is what the compiler asks for.
The time is a bound (S. Williams et al., Roofline, 2009): no chip can be faster than its
peak at the slowest of products, memory and messages. It says nothing of how close a
run comes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The needs of a program on a topology.

    Attributes:
      topology: name of the topology.
      chips: number of chips.
      bytes_per_chip: bytes of each kind on a chip; total; limit.
      fits: whether total is at most limit.
      seconds_bound: the program cannot take less.
      bound_by: what that is the time of.
      mfu_bound: the network's own products, without recomputation, over what the chips
        could do in that time.
      advice: what would make it fit; "" where it fits.
    """

    topology: str
    chips: int
    bytes_per_chip: dict[str, int]
    fits: bool
    seconds_bound: float
    bound_by: str
    mfu_bound: float
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Converts to values that JSON can store."""
        return dataclasses.asdict(self)


def find_slowest(bounds: Mapping[str, float]) -> tuple[str, float]:
    """Returns the name and the seconds of the bound that decides."""
    name = max(bounds, key=lambda name: bounds[name])
    return name, bounds[name]


def format_plan(plan: Plan, head: str, work: Sequence[str], bound: str) -> str:
    """Formats a plan for people.

    Args:
      plan: the plan.
      head: what is planned.
      work: lines on products and messages.
      bound: what takes plan.seconds_bound at least, after "at least ... s".
    """
    rows = [f"{plan.topology}, {plan.chips} chips{head}"]
    rows += [
        f"  {kind:<14} {format_bytes(size)} a chip"
        for kind, size in plan.bytes_per_chip.items()
    ]
    rows.append(f"fits: {'yes' if plan.fits else f'no; {plan.advice}'}")
    rows += work
    rows.append(
        f"at least {plan.seconds_bound:.3g} s {bound}; MFU at most "
        f"{100 * plan.mfu_bound:.2g} %"
    )
    return "\n".join(rows)


def format_bytes(size: int) -> str:
    """Formats bytes in GiB, or in MiB where that would be next to nothing."""
    scale, unit = (2**30, "GiB") if size >= 2**27 else (2**20, "MiB")
    return f"{size / scale:9.3f} {unit}"


def format_flops(flops: float) -> str:
    """Formats products in TFLOP, or in GFLOP where that would be next to nothing."""
    scale, unit = (1e12, "TFLOP") if flops >= 1e11 else (1e9, "GFLOP")
    return f"{flops / scale:,.1f} {unit}"
