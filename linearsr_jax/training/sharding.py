"""Makes the device mesh, and the shardings of arrays on it.

The mesh has four axes. `experts` splits the axis of experts. For each expert, `data`
holds copies of the parameters, `fsdp` splits them, and both split the batch. `sequence`
splits the rows of each sample: its devices send each other one sum of linear attention
per block, and the rows beside their own that a convolution sees. A single device is a
mesh of size one.

Several TPU slices divide `experts` as far as they can, since experts send each other
nothing, and then `data`, which sends the gradients once a step. The other axes stay
within a slice.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.core.device_mesh import count_slices, place_mesh

AXES = ("experts", "data", "fsdp", "sequence")

# Mesh axes by logical axis name. Every large kernel has `embed` exactly once.
LOGICAL_AXIS_RULES = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("heads", None),
    ("mlp", None),
    ("layers", None),
    ("tokens", "sequence"),  # row by row
    ("rows", "sequence"),
    ("embed_act", None),
)

# Devices that split the parameters, by preset: as the plans of docs/pods.md have it.
# The parameters of other presets fit on every device.
DEFAULT_FSDP = {"600m": 16, "1600m": 16, "1600m_qk": 16}


def make_mesh(
    data: int,
    fsdp: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    experts: int = 1,
    sequence: int = 1,
) -> Mesh:
    """Makes a mesh over devices.

    Args:
      data, fsdp, experts, sequence: sizes of the axes; one of them may be -1 for all
        remaining devices.
      devices: devices to use; by default all.

    Raises:
      ValueError: the product of the sizes is not the number of devices, or TPU slices
        cannot divide experts and data.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [experts, data, fsdp, sequence]
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = len(devices) // max(1, -math.prod(sizes))
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        raise ValueError(
            f"mesh experts={experts} x data={data} x fsdp={fsdp} x "
            f"sequence={sequence} does not fit {len(devices)} devices; their product "
            "must be that number (data or fsdp may be -1)"
        )
    slices = count_slices(devices)
    experts_across = math.gcd(sizes[0], slices)
    data_across = slices // experts_across
    if sizes[1] % data_across:
        raise ValueError(
            f"{slices} TPU slices cannot divide experts={sizes[0]} x data={sizes[1]}; "
            "fsdp and sequence stay within a slice"
        )
    return place_mesh(sizes, AXES, devices, across=(experts_across, data_across, 1, 1))


def default_fsdp(
    preset: str,
    devices: Sequence[jax.Device] | None = None,
    *,
    experts: int = 1,
    data: int = -1,
    sequence: int = 1,
) -> int:
    """Chooses the size of `fsdp` where a config leaves it open.

    Args:
      preset: name of the preset.
      devices, experts, data, sequence: see `make_mesh`; only data may be -1.

    Returns:
      The number in `DEFAULT_FSDP`, or the largest factor of it by which the devices of
      a slice divide.
    """
    devices = jax.devices() if devices is None else devices
    slices = count_slices(devices)
    if devices[0].platform == "gpu":
        # What splits the parameters stays within a node.
        slices = len({device.process_index for device in devices})
    copies = slices // math.gcd(experts, slices) if data == -1 else data
    left = len(devices) // max(1, experts * copies * sequence)
    return math.gcd(DEFAULT_FSDP.get(preset, 1), left)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards arrays with a leading batch axis, the same for every expert."""
    return NamedSharding(mesh, jax.P(("data", "fsdp")))


def expert_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards arrays with leading axes of experts and of the batch of each."""
    return NamedSharding(mesh, jax.P("experts", ("data", "fsdp")))


def batch_parts(mesh: Mesh) -> int:
    """Counts the parts that the batch of an expert is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Replicates arrays on every device."""
    return NamedSharding(mesh, jax.P())


def state_sharding(abstract_state: PyTree, mesh: Mesh) -> PyTree:
    """Derives the shardings of a state whose arrays carry logical axis names.

    Args:
      abstract_state: `jax.eval_shape` of the initialiser of the state, boxed.
      mesh: mesh from `make_mesh`.
    """
    specs = nn.get_partition_spec(abstract_state)
    return nn.logical_to_mesh_sharding(specs, mesh, LOGICAL_AXIS_RULES)


def stacked(shardings: PyTree) -> PyTree:
    """Adds a leading axis of experts to shardings."""
    return jax.tree.map(
        lambda x: NamedSharding(x.mesh, jax.P("experts", *x.spec)), shardings
    )


def fetched(tree: PyTree, *, only_first: bool = False) -> PyTree:
    """Copies arrays to the host, also those that are spread over several hosts.

    Call it on every process. One array at a time is gathered on the devices.

    Args:
      tree: arrays on a mesh.
      only_first: whether the other processes get None in place of every array.
    """

    def fetch(x):
        if not x.is_fully_addressable:
            x = jax.jit(lambda x: x, out_shardings=replicated(x.sharding.mesh))(x)
        return None if only_first and jax.process_index() else jax.device_get(x)

    return jax.tree.map(fetch, tree)


def own_samples(mesh: Mesh, experts: int, batch_size: int) -> list[int]:
    """Finds the samples of a batch that the devices of this process hold.

    Args:
      mesh: mesh of all devices.
      experts: number E of experts.
      batch_size: samples B per expert.

    Returns:
      Positions in the E B samples of a batch, increasing; those of the experts follow
      one another.
    """
    numbers = np.arange(experts * batch_size).reshape(experts, batch_size)
    held = expert_batch_sharding(mesh).addressable_devices_indices_map(numbers.shape)
    own = {int(n) for index in held.values() if index for n in numbers[index].flat}
    return sorted(own)


def put_expert_batch(
    batch: dict[str, np.ndarray], mesh: Mesh, experts: int, batch_size: int
) -> PyTree:
    """Makes global arrays (E, B, ...) over the mesh from the `own_samples`."""
    sharding = expert_batch_sharding(mesh)
    own = np.array(own_samples(mesh, experts, batch_size))
    numbers = np.arange(experts * batch_size).reshape(experts, batch_size)

    def put(x):
        def of_device(index):
            # A process may hold other samples of one expert than of the next.
            return x[np.searchsorted(own, numbers[index[:2]])]

        shape = (*numbers.shape, *x.shape[1:])
        return jax.make_array_from_callback(shape, sharding, of_device)

    return jax.tree.map(put, batch)


def split_over_batch(
    function: Callable[[PyTree], PyTree], mesh: Mesh
) -> Callable[[PyTree], PyTree]:
    """Compiles a function of a batch (B, ...) for the (E, B, ...) of all experts.

    The function must treat samples independently. Every device sees only its own
    samples, as if they were the whole batch. If this were left to XLA, FFTs and gathers
    would collect the batch on every device.
    """
    spec = expert_batch_sharding(mesh).spec

    def of_own(batch):
        rows = jax.tree.leaves(batch)[0].shape[0]
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        return jax.tree.map(lambda x: x.reshape(rows, -1, *x.shape[1:]), function(flat))

    return jax.jit(
        jax.shard_map(of_own, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )
