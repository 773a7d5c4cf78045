"""The device mesh and where arrays live on it.

Three mesh axes: `experts` splits what there is of each expert; of one expert, `data`
holds copies of the parameters, `fsdp` splits them, and both split its batch. One device
is the mesh of one.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from linearsr_jax.core.array_types import PyTree

AXES = ("experts", "data", "fsdp")

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
    data: int,
    fsdp: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    experts: int = 1,
) -> Mesh:
    """A mesh over devices.

    Args:
      data, fsdp: sizes of the axes; one of them may be -1: what is left.
      devices: all of them by default.
      experts: size of the axis.

    Raises:
      ValueError: if they do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [experts, data, fsdp]
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = len(devices) // max(1, -math.prod(sizes))
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        raise ValueError(
            f"mesh experts={experts} x data={data} x fsdp={fsdp} does not fit "
            f"{len(devices)} devices; their product must be that number (data or fsdp "
            "may be -1)"
        )
    return jax.make_mesh(
        tuple(sizes), AXES, (AxisType.Auto,) * len(AXES), devices=devices
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays with a leading batch axis, the same for every expert."""
    return NamedSharding(mesh, jax.P(("data", "fsdp")))


def expert_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays with leading axes of experts and of each one's batch."""
    return NamedSharding(mesh, jax.P("experts", ("data", "fsdp")))


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


def stacked(shardings: PyTree) -> PyTree:
    """Shardings of the same arrays with a leading axis of experts."""
    return jax.tree.map(
        lambda x: NamedSharding(x.mesh, jax.P("experts", *x.spec)), shardings
    )


def put_expert_batch(batch: dict[str, np.ndarray], mesh: Mesh, experts: int) -> PyTree:
    """Makes global arrays (E, B, ...), split over the mesh, of this process's samples.

    The samples of all experts lie one after another in the batch.
    """
    sharding = expert_batch_sharding(mesh)

    def put(x):
        # Of how many experts this process has samples.
        shape = (experts, len(x) * jax.process_count() // experts)
        held = sharding.addressable_devices_indices_map(shape).values()
        rows = len({index[0].indices(experts) for index in held})
        rows *= experts // mesh.shape["experts"]
        x = x.reshape(rows, -1, *x.shape[1:])
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(put, batch)


def split_over_batch(
    function: Callable[[PyTree], PyTree], mesh: Mesh
) -> Callable[[PyTree], PyTree]:
    """Jits a function of a batch (B, ...), for (E, B, ...) of all experts.

    It must treat each sample by itself. Every device sees only its own samples, as if
    they were the whole batch; left to XLA, FFTs and gathers would bring the batch
    together on each.
    """
    spec = expert_batch_sharding(mesh).spec

    def of_own(batch):
        rows = jax.tree.leaves(batch)[0].shape[0]
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        return jax.tree.map(lambda x: x.reshape(rows, -1, *x.shape[1:]), function(flat))

    return jax.jit(
        jax.shard_map(of_own, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )
