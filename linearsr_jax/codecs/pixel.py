"""The codec without weights: what bicubic upscaling leaves out, space-to-depth.

One latent pixel, and so one token, per LR pixel; latents of zero decode to the
bicubic image exactly. The paper uses DC-AE instead (32x); linear attention is what
makes a token per LR pixel affordable.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.core.checked_fields import Ranges, check_fields
from linearsr_jax.core.scale import SCALE

_RANGES: Ranges = {
    "residual_std": (1e-6, 10),
    "factor": (SCALE, SCALE),
    "channels": (3 * SCALE**2, 3 * SCALE**2),
}


def upscale_bicubic(image_lr: Float[Array, "B y x 3"]) -> Float[Array, "B 4*y 4*x 3"]:
    """Enlarges x4 by the bicubic kernel of Pillow and MATLAB (Keys, a = -0.5), float32.

    At the border the kernel is cut off and renormalised, as Pillow does.
    """
    batch, height, width, channels = image_lr.shape
    return jax.image.resize(
        image_lr.astype(jnp.float32),
        (batch, SCALE * height, SCALE * width, channels),
        method="cubic",
        precision=jax.lax.Precision.HIGHEST,
    )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PixelCodec:
    """Space-to-depth of (HR - bicubic LR), divided by its standard deviation.

    Attributes:
      residual_std: standard deviation of HR - bicubic LR in units of [-1, 1]. The
        default is about what experiments/202611_nano/residual_std.py measures on
        nano's training data.
    """

    residual_std: float = 0.1
    factor: int = SCALE
    channels: int = 3 * SCALE * SCALE

    @property
    def decode_halo(self) -> int:
        """See `Codec`: the reach of the bicubic kernel."""
        return 2

    @property
    def keeps_colors(self) -> bool:
        """See `Codec`: the latents only say what is added."""
        return True

    def encode(
        self, image_hr: Float[Array, "B H W 3"], image_lr: Float[Array, "B H//4 W//4 3"]
    ) -> Float[Array, "B h w C"]:
        """See `Codec`. Channel (4 row + column) 3 + colour of each 4x4 HR block."""
        residual = (image_hr - upscale_bicubic(image_lr)) / self.residual_std
        batch, height, width, channels = residual.shape
        blocks = residual.reshape(
            batch, height // SCALE, SCALE, width // SCALE, SCALE, channels
        )
        return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
            batch, height // SCALE, width // SCALE, self.channels
        )

    def decode(
        self, latents: Float[Array, "B h w C"], image_lr: Float[Array, "B y x 3"]
    ) -> Float[Array, "B 4*y 4*x 3"]:
        """See `Codec`."""
        batch, height, width, _ = latents.shape
        blocks = latents.astype(jnp.float32).reshape(
            batch, height, width, SCALE, SCALE, 3
        )
        residual = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
            batch, SCALE * height, SCALE * width, 3
        )
        return upscale_bicubic(image_lr) + residual * self.residual_std

    def astype(self, dtype: jnp.dtype) -> "PixelCodec":
        """See `Codec`: its arithmetic is what makes the image, and little."""
        return self

    def settings(self) -> dict[str, Any]:
        """See `Codec`."""
        return dataclasses.asdict(self)

    def save_weights(self, folder: Path) -> list[str]:
        """See `Codec`."""
        return []

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path | None) -> "PixelCodec":
        """See `Codec`."""
        return cls(**check_fields(cls, settings, _RANGES))
