"""Any output size: which one is meant, and how an image gets it.

The model enlarges four times. Other sizes are reached by enlarging once, or twice above
x4, and then reducing by Pillow's Lanczos filter to exactly the size. That happens on
the levels as they are stored (on sRGB's curve, say), not on linear light: the models
were trained on photographs that were reduced like that, so the result of any scale is
close to what they would have made of it; and a profile's curve need not be known.
"""

import math
from dataclasses import dataclass

import numpy as np
import PIL.Image

from linearsr_jax.core.array_types import Float
from linearsr_jax.core.limits import MAX_SCALE
from linearsr_jax.core.scale import SCALE
from linearsr_jax.inference.checked_settings import checked
from linearsr_jax.inference.errors import UpscaleError

# How much of one side's scale may differ from that of the other without a remark.
_STRETCH = 0.01


@dataclass(frozen=True)
class OutputSize:
    """The size that an output shall have.

    Attributes:
      scale: output size over input size, 1 to 8.
      exact: (width, height) in pixels, each 1 to 8 times that of the input. None in
        place of one of them keeps the proportions.
      max_side: no side gets longer than this; of what scale asks for.

    Raises:
      UpscaleError: a value out of range, or exact beside another.
    """

    scale: float | None = None
    exact: tuple[int | None, int | None] | None = None
    max_side: int | None = None

    def __post_init__(self):
        if self.scale is not None:
            checked("scale", self.scale)
        if self.exact is not None:
            if self.scale is not None or self.max_side is not None:
                raise UpscaleError("give a size, or a scale and a longest side")
            is_pair = isinstance(self.exact, tuple | list) and len(self.exact) == 2
            if not is_pair or all(side is None for side in self.exact):
                raise UpscaleError(f"size must be (width, height), got {self.exact!r}")
            for name, side in zip(("width", "height"), self.exact, strict=True):
                if side is not None:
                    checked(f"size: {name}", side)
        if self.max_side is not None:
            checked("max_side", self.max_side)

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Returns the (width, height) of the output for an input.

        Raises:
          UpscaleError: it is smaller than the input, or more than 8 times as large.
        """
        if self.exact is not None:
            size = self._exact(self.exact, width, height)
        else:
            scale = SCALE if self.scale is None else self.scale
            if self.max_side is not None:
                scale = min(scale, self.max_side / max(width, height))
            size = _scaled(width, scale), _scaled(height, scale)
        for new, old in zip(size, (width, height), strict=True):
            if not old <= new <= MAX_SCALE * old:
                raise UpscaleError(
                    f"{width}x{height} cannot become {size[0]}x{size[1]}; each side "
                    f"can get 1 to {MAX_SCALE:g} times as long"
                )
        return size

    def stretches(self, width: int, height: int) -> bool:
        """Tells whether an input's proportions change visibly."""
        new_width, new_height = self.of(width, height)
        # A rounded pixel is no stretch.
        expected = new_width * height / width
        return abs(new_height - expected) > max(1, _STRETCH * expected)

    def _exact(self, exact, width, height):
        new_width, new_height = exact
        if new_width is None:
            new_width = _scaled(width, new_height / height)
        if new_height is None:
            new_height = _scaled(height, new_width / width)
        return new_width, new_height


def plan_passes(
    size: tuple[int, int], target: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Returns the sizes of the inputs of the model's passes, first the image's own.

    Args:
      size, target: (width, height) of input and output.
    """
    sizes = [size]
    while any(SCALE * old < new for old, new in zip(sizes[-1], target, strict=True)):
        # The last pass makes the target, or up to three pixels more. What the one
        # before makes is reduced to what that needs: cheaper than to reduce after it.
        width, height = (
            min(max(old, math.ceil(new / SCALE)), SCALE * old)
            for old, new in zip(sizes[-1], target, strict=True)
        )
        sizes.append((width, height))
    return tuple(sizes)


def resize(
    image: Float[np.ndarray, "H W C"],
    size: tuple[int, int],
    method: PIL.Image.Resampling = PIL.Image.Resampling.LANCZOS,
) -> Float[np.ndarray, "y x C"]:
    """Resizes float32 channels to (width, height); antialiased."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    resized = np.empty((size[1], size[0], image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        plane = PIL.Image.fromarray(np.ascontiguousarray(image[..., channel]))
        resized[..., channel] = plane.resize(size, method)
    return resized


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))
