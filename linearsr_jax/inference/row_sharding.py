"""Splits the rows of an image over devices, for images too large or slow for one.

XLA divides the compiled sampler by itself. The devices send each other the sums of
attention, and the rows beside their own that a convolution sees.
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding

from linearsr_jax.core.device_mesh import place_mesh


class RowSharding:
    """Places images and weights on devices of this process.

    A number of rows that the devices do not divide is split over fewer of them, and the
    others do the same work again.

    Attributes:
      copies: sharding of what every device has whole, such as the weights.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        """Takes the devices."""
        self._devices = devices
        self.copies = self._make(1, jax.P())

    def parts(self, rows: int) -> int:
        """Counts the parts that so many rows of latents are split into."""
        return math.gcd(rows, len(self._devices))

    def rows(self, parts: int) -> NamedSharding:
        """Makes the sharding of arrays whose first axis is split into so many parts."""
        return self._make(parts, jax.P("rows"))

    def _make(self, parts: int, spec: jax.P) -> NamedSharding:
        shape = (parts, len(self._devices) // parts)
        mesh = place_mesh(shape, ("rows", "copies"), self._devices)
        return NamedSharding(mesh, spec)
