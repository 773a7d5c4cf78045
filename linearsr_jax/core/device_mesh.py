"""Places meshes on devices."""

from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh


def count_slices(devices: Sequence[jax.Device]) -> int:
    """Counts the TPU slices that devices belong to; other platforms have one."""
    # Other platforms number each host as a slice. A single slice that libtpu describes
    # on a machine without TPUs has no number.
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices})


def place_mesh(
    sizes: Sequence[int],
    axes: Sequence[str],
    devices: Sequence[jax.Device],
    *,
    across: Sequence[int] | None = None,
) -> Mesh:
    """Makes a mesh of axes that XLA divides by itself, neighbours beside each other.

    jax.make_mesh refuses axes that are no whole sides of a TPU's torus, such as 8 on
    4x4x4; here they may be parts of a side.

    Args:
      sizes: sizes of the axes; their product is the number of devices.
      axes: names of the axes.
      devices: devices to place it on.
      across: how often each axis is divided among the slices of TPUs, whose network
        is slow; the product is `count_slices`. By default there is one slice.
    """
    if across is None or max(across) == 1:
        placed = mesh_utils.create_device_mesh(
            sizes, devices, allow_split_physical_axes=True
        )
    else:
        inside = [size // times for size, times in zip(sizes, across, strict=True)]
        placed = mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    return Mesh(placed, axes, axis_types=(AxisType.Auto,) * len(axes))
