"""Places meshes on devices."""

from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh


def place_mesh(
    sizes: Sequence[int], axes: Sequence[str], devices: Sequence[jax.Device]
) -> Mesh:
    """Makes a mesh of axes that XLA divides by itself, neighbours beside each other.

    jax.make_mesh refuses axes that are no whole sides of a TPU's torus, such as 8 on
    4x4x4; here they may be parts of a side.

    Args:
      sizes: sizes of the axes; their product is the number of devices.
      axes: names of the axes.
      devices: devices to place it on.
    """
    placed = mesh_utils.create_device_mesh(
        sizes, devices, allow_split_physical_axes=True
    )
    return Mesh(placed, axes, axis_types=(AxisType.Auto,) * len(axes))
