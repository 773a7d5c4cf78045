"""Reads from a compiled program what its devices send each other.

Bytes are the fewest that any algorithm lets a device send (R. Thakur et al.,
Optimization of Collective Communication Operations in MPICH, 2005); rings reach them.
"""

import math
import re
from collections.abc import Callable, Iterator

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
# Three ways to write groups: {{0,1},{2,3}}, [2,2]<=[4], and by the axes of a mesh,
# mesh['x'=2,'y'=2] {'y'}. Without one, all are a group.
_GROUP = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\].*? \{(.*?)\}")
_AXIS_SIZE = re.compile(r"'([^']+)'=(\d+)")
_AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_NO_GROUP = re.compile(r"replica_groups=\{\}|^(?!.*replica_groups)")
_ALL = re.compile(r"^HloModule .*num_partitions=(\d+)", re.MULTILINE)
_FROM_SLICES = re.compile(r"= (.*?) recv\(.*_xla_megascale_transfer_type=")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|branch_computations)=\{?([%\w.,\- ]+)\}?")
# A collective of TPUs that goes on beside other work is written out at its start, in
# each of the fusions that carry it on, and at its end. The start counts.
_CARRIED_ON = re.compile(r"^\s*%async-collective-done|calls=%?async_collective_fusion")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
# Of a loop that counts: in its condition the limit and the counter's place, in its body
# what becomes of the counter.
_NUMBER = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")
_PLACE = re.compile(r"= [su]32\[\]\S* get-tuple-element\(.*\), index=(\d+)")
_RESULTS = re.compile(r"^\s*ROOT .* tuple\((.*?)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_DEFINED = re.compile(r"\s*%([\w.\-]+) =")
_SUM = re.compile(r" add\(%([\w.\-]+), %([\w.\-]+)\)")


def count_collectives(program: str) -> dict[str, dict[str, int]]:
    """Counts the collectives of a step and the bytes that each device sends, by kind.

    What slices of TPUs send each other is a kind of its own, `BETWEEN_SLICES`. Its
    bytes are those that a device receives. For a sum over two slices it sends as many,
    over more slices up to twice as many.

    Loops count as often as XLA says that they run, or else as often as their counter
    rises from zero to the largest number in their condition.

    Args:
      program: text of a compiled module, `jax.stages.Compiled.as_text()`; empty for
        one that the compiler refused.

    Returns:
      {kind: {"count": ..., "bytes": ...}}.

    Raises:
      ValueError: the groups of a collective are written in a way that is not known.
    """
    entry, computations = _split(program)
    if not entry:
        return {}
    module = _ALL.search(program)
    all_devices = int(module[1]) if module else 1
    own = {
        name: list(_sent(name, lines, all_devices))
        for name, lines in computations.items()
    }
    calls = {name: list(_called(lines)) for name, lines in computations.items()}
    totals = {kind: {"count": 0, "bytes": 0} for kind in (*_SENT, BETWEEN_SLICES)}

    def visit(name: str, times: int) -> None:
        for kind, size in own[name]:
            totals[kind]["count"] += times
            totals[kind]["bytes"] += times * size
        for other, trips, condition in calls[name]:
            if other not in computations:
                continue  # Another word of the line.
            if condition in computations:
                trips = _count_trips(computations[condition], computations[other])
            visit(other, times * trips)

    visit(entry, 1)
    return {kind: total for kind, total in totals.items() if total["count"]}


def _split(program: str) -> tuple[str, dict[str, list[str]]]:
    """Returns the name of the entry, and the lines of each computation."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            lines = computations[found[1]] = []
            if line.startswith("ENTRY"):
                entry = found[1]
        else:
            lines.append(line)
    return entry, computations


def _sent(name: str, lines: list[str], all_devices: int) -> Iterator[tuple[str, int]]:
    """Yields kind and bytes of each collective in a computation."""
    # libtpu writes a reduce-scatter as an all-reduce of which each device takes a part.
    is_scattered = name.startswith("all-reduce-scatter")
    for line in lines:
        if found := _COLLECTIVE.search(line):
            kind, is_start = found[2], f"{found[2]}-start(" in line
            arrays = _ARRAY.findall(found[1])
            if is_start and kind != "all-reduce":
                # (operands..., results..., context): numbers that are no data.
                arrays = [array for array in arrays if array != ("u32", "")]
                arrays = arrays[len(arrays) // 2 :]
            result = sum(_bytes(*array) for array in arrays)
            devices = _group_size(line, all_devices)
            if is_scattered and kind == "all-reduce":
                kind, result = "reduce-scatter", result / devices
            yield kind, round(_SENT[kind](devices) * result)
        elif found := _FROM_SLICES.search(line):
            # (result, context, token)
            yield BETWEEN_SLICES, _bytes(*_ARRAY.findall(found[1])[0])


def _called(lines: list[str]) -> Iterator[tuple[str, int, str]]:
    """Yields what a computation calls, how often, and the condition that decides it."""
    for line in lines:
        if _COLLECTIVE.search(line) or _CARRIED_ON.search(line):
            continue
        if found := _CALLED.search(line):
            trips, condition = _TRIPS.search(line), _CONDITION.search(line)
            times = int(trips[1]) if trips else 1
            asked = condition[1] if condition and not trips else ""
            for name in found[1].split(","):
                yield name.strip(" %"), times, asked


def _count_trips(condition: list[str], body: list[str]) -> int:
    """Counts how often a loop runs whose counter starts at zero; 1 if it has none."""
    text = "\n".join(condition)
    limits = [int(n) for n in _NUMBER.findall(text)]
    if not limits:
        return 1
    place = _PLACE.search(text)
    step = _step(body, int(place[1])) if place else 1
    return math.ceil(max(limits) / step)


def _step(body: list[str], place: int) -> int:
    """Returns what a loop's body adds to its counter; 1 where that is not plain."""
    results = next((r[1] for line in body if (r := _RESULTS.match(line))), "")
    names = _NAME.findall(results)
    if place >= len(names):
        return 1
    lines = {d[1]: line for line in body if (d := _DEFINED.match(line))}
    added = _SUM.search(lines.get(names[place], ""))
    numbers = [
        int(number[1])
        for name in (added.groups() if added else ())
        if (number := _NUMBER.search(lines.get(name, "")))
    ]
    return max(numbers, default=1) or 1


def _group_size(line: str, all_devices: int) -> int:
    """Returns how many devices take part in a collective."""
    if found := _GROUP.search(line):
        return len(found[1].split(",")) if found[1] else int(found[2])
    if found := _MESH.search(line):
        sizes = dict(_AXIS_SIZE.findall(found[1]))
        axes = _AXIS.findall(found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if _NO_GROUP.search(line):
        return all_devices
    raise ValueError(f"groups of an unknown form: {line.strip()[:200]}")


def _bytes(kind: str, shape: str) -> int:
    bits = _BITS.get(kind) or int(re.sub(r"\D", "", kind) or 0)
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8
