"""Reads from a compiled program what its devices send each other.

Bytes are the fewest that any algorithm lets a device send (R. Thakur et al.,
Optimization of Collective Communication Operations in MPICH, 2005); rings reach them.
"""

import math
import re
from collections.abc import Callable

# Bits of an element by its type in XLA's text.
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64}
# What a device sends for each byte of its result, among n devices.
_SENT: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
# Slices send through their hosts; XLA gives each message its own pair of operations.
BETWEEN_SLICES = "between-slices"
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_SENT)})(?:-start)?\(")
# Both ways to write groups, {{0,1},{2,3}} and [2,2]<=[4]; without one all are a group.
_GROUP = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")
_ALL = re.compile(r"^HloModule .*num_partitions=(\d+)")
_FROM_SLICES = re.compile(r"= (.*?) recv\(.*_xla_megascale_transfer_type=")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|branch_computations)=\{?([%\w.,\- ]+)\}?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


def count_collectives(program: str) -> dict[str, dict[str, int]]:
    """Counts the collectives of a step and the bytes that each device sends, by kind.

    What slices of TPUs send each other is a kind of its own, `BETWEEN_SLICES`. Its
    bytes are those that a device receives. For a sum over two slices it sends as many,
    over more slices up to twice as many.

    Loops count as often as XLA says that they run, or else as the largest number that
    their condition compares with.

    Args:
      program: text of a compiled module, `jax.stages.Compiled.as_text()`.

    Returns:
      {kind: {"count": ..., "bytes": ...}}.
    """
    own: dict[str, list[tuple[str, int]]] = {}
    calls: dict[str, list[tuple[str, int, str]]] = {}
    limits: dict[str, int] = {}
    entry = name = ""
    all_devices = 1
    for line in program.splitlines():
        if found := _ALL.match(line):
            all_devices = int(found[1])
        if found := _COMPUTATION.match(line):
            name = found[1]
            own[name], calls[name] = [], []
            if line.startswith("ENTRY"):
                entry = name
            continue
        if not name:
            continue
        if found := _LIMIT.search(line):
            limits[name] = max(limits.get(name, 1), int(found[1]))
        if found := _COLLECTIVE.search(line):
            kind, is_start = found[2], f"{found[2]}-start(" in line
            arrays = _ARRAY.findall(found[1])
            if is_start and kind != "all-reduce":
                # (operands..., results..., context): numbers that are no data.
                arrays = [array for array in arrays if array != ("u32", "")]
                arrays = arrays[len(arrays) // 2 :]
            result = sum(_bytes(*array) for array in arrays)
            devices = _group_size(line) or all_devices
            own[name].append((kind, round(_SENT[kind](devices) * result)))
        elif found := _FROM_SLICES.search(line):
            # (result, context, token)
            own[name].append((BETWEEN_SLICES, _bytes(*_ARRAY.findall(found[1])[0])))
        elif found := _CALLED.search(line):
            trips = _TRIPS.search(line)
            times = int(trips[1]) if trips else 1
            condition = _CONDITION.search(line)
            asked = condition[1] if condition and not trips else ""
            names = [x.strip(" %") for x in found[1].split(",")]
            calls[name] += [(other, times, asked) for other in names]
    totals = {kind: {"count": 0, "bytes": 0} for kind in (*_SENT, BETWEEN_SLICES)}

    def visit(name: str, times: int) -> None:
        for kind, size in own.get(name, ()):
            totals[kind]["count"] += times
            totals[kind]["bytes"] += times * size
        for other, more, condition in calls.get(name, ()):
            visit(other, times * more * limits.get(condition, 1))

    visit(entry, 1)
    return {kind: total for kind, total in totals.items() if total["count"]}


def _group_size(line: str) -> int:
    """Returns how many devices take part, 0 where the line does not say."""
    found = _GROUP.search(line)
    if not found:
        return 0
    return len(found[1].split(",")) if found[1] else int(found[2])


def _bytes(kind: str, shape: str) -> int:
    bits = _BITS.get(kind) or int(re.sub(r"\D", "", kind) or 0)
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8
