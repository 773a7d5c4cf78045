"""The device mesh and where arrays live on it.

Two mesh axes: `data` holds copies of the parameters, `fsdp` splits them; both split
the batch. One device is the mesh of one.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from linearsr_jax.array_types import PyTree

# Logical axis name -> mesh axes. `embed` is on every large kernel exactly once.
LOGICAL_AXIS_RULES = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("heads", None),
    ("mlp", None),
    ("layers", None),
    ("tokens", None),
    ("embed_act", None),
)


def make_mesh(
    data: int, fsdp: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over devices.

    Args:
      data, fsdp: sizes of the axes; one of them may be -1: what is left.
      devices: all of them by default.

    Raises:
      ValueError: if they do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp]
    if sizes.count(-1) == 1 and max(sizes) > 0:
        sizes[sizes.index(-1)] = len(devices) // max(sizes)
    if sizes[0] * sizes[1] != len(devices) or min(sizes) < 1:
        raise ValueError(
            f"mesh data={data} x fsdp={fsdp} does not fit {len(devices)} devices; "
            "their product must be that number (one may be -1)"
        )
    return jax.make_mesh(
        tuple(sizes), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=devices
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays with a leading batch axis."""
    return NamedSharding(mesh, jax.P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays every device holds whole."""
    return NamedSharding(mesh, jax.P())


def state_sharding(abstract_state: PyTree, mesh: Mesh) -> PyTree:
    """Shardings of a state whose arrays carry logical axis names.

    Args:
      abstract_state: `jax.eval_shape` of the state's initialiser, boxed.
      mesh: from `make_mesh`.
    """
    specs = nn.get_partition_spec(abstract_state)
    return nn.logical_to_mesh_sharding(specs, mesh, LOGICAL_AXIS_RULES)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> PyTree:
    """This process's part of a batch -> global arrays, split over the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


def split_over_batch(
    function: Callable[[PyTree], PyTree], mesh: Mesh
) -> Callable[[PyTree], PyTree]:
    """Jits a function of a global batch that treats each sample by itself.

    Every device sees only its own samples, as if they were the whole batch; left to
    XLA, FFTs and gathers would bring the batch together on each.
    """
    spec = batch_sharding(mesh).spec
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
    )
