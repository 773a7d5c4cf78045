"""What a compiler says that a program needs beside its arguments."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.plan.topologies import PlanError

# Share of the memory that a program gets; the rest belongs to the runtime.
USABLE = 0.95
# How XLA says what a program that it refuses would need.
_USED = re.compile(r"Used ([\d.]+)([KMGT])i?B? of ")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as a compiler has made it.

    Attributes:
      text: the program; "" where the compiler refuses it for its memory.
      temporaries: bytes on each device beside the arguments. Of a refused program as
        many as the compiler names, and no fewer than the arguments leave.
    """

    text: str
    temporaries: int


def compile_program(
    compile: Callable[[], jax.stages.Compiled], arguments: int, memory: int
) -> Compiled:
    """Compiles a program, also one that does not fit.

    Args:
      compile: compiles the program for the devices that it is planned for.
      arguments: bytes of its arguments on each device.
      memory: bytes that a device has.

    Raises:
      PlanError: the compiler refuses the program for another reason than memory.
    """
    try:
        compiled = compile()
    except jax.errors.JaxRuntimeError as error:
        text = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" in text:
            used = _USED.search(text)
            total = float(used[1]) * 1024 ** (1 + "KMGT".index(used[2])) if used else 0
            return Compiled("", max(round(total), memory, arguments) - arguments)
        raise PlanError(f"the compiler refuses the program: {text[:300]}") from error
    asked: Any = compiled.memory_analysis()
    # Outputs that are not updated in place count as temporaries.
    outputs = asked.output_size_in_bytes - asked.alias_size_in_bytes
    return Compiled(compiled.as_text() or "", asked.temp_size_in_bytes + outputs)


def device_bytes(tree: PyTree) -> int:
    """Counts the bytes of placed arrays, or of their shapes, on each device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
