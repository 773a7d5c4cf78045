"""Lists where every array of a training state lies, and how much memory it takes."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from linearsr_jax.training.initial_state import StartState

# Kinds of arrays by the field of the state that they are in.
_KINDS = {"params": "parameters", "opt_state": "moments", "adversary": "discriminator"}


@dataclasses.dataclass(frozen=True)
class Place:
    """The place and size of an array on the devices.

    Attributes:
      name: path in the state.
      kind: parameters, moments, EMA, discriminator or other.
      shape: shape of the whole array; the first axis is that of the experts.
      spec: mesh axes that split each of its axes.
      device_bytes: bytes on each device.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    spec: tuple
    device_bytes: int


def find_places(start_state: StartState) -> list[Place]:
    """Lists the arrays of a state; nothing is computed."""
    shapes = jax.tree_util.tree_leaves_with_path(start_state.shapes)
    shardings = jax.tree.leaves(start_state.shardings)
    last = len(start_state.shapes.opt_state) - 1
    found = []
    for (path, array), sharding in zip(shapes, shardings, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        field, _, rest = name.partition("/")
        kind = _KINDS.get(field, "other")
        # See `optimizers.ema_params`.
        if field == "opt_state" and rest.startswith(f"{last}/"):
            kind = "EMA"
        held = sharding.shard_shape(array.shape)
        size = int(np.prod(held, dtype=np.int64)) * array.dtype.itemsize
        found.append(Place(name, kind, array.shape, tuple(sharding.spec), size))
    return found


def sum_by_kind(places: Sequence[Place]) -> dict[str, int]:
    """Sums the bytes on each device by kind."""
    sums: dict[str, int] = {}
    for place in places:
        sums[place.kind] = sums.get(place.kind, 0) + place.device_bytes
    return sums


def format_places(places: Sequence[Place]) -> str:
    """Formats a table of all arrays, and the sums by kind."""
    rows = [("array", "shape", "split by", "bytes per device")]
    rows += [
        (place.name, str(place.shape), str(place.spec), f"{place.device_bytes:,}")
        for place in places
    ]
    sums = sum_by_kind(places)
    rows += [(kind, "", "", f"{size:,}") for kind, size in sums.items()]
    rows.append(("all", "", "", f"{sum(sums.values()):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in rows
    )
