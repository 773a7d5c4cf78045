"""The interface between images and latents."""

from pathlib import Path
from typing import Any, Protocol, Self

import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float


class CodecError(Exception):
    """A codec's weights that cannot be used; one line, says what to do."""


class Codec(Protocol):
    """Turns HR images into latents and back, given the LR image.

    A pytree whose leaves are its weights: compiled functions take it as an argument.

    Attributes:
      factor: HR pixels per latent pixel, in each direction.
      channels: channels of the latents, which have about unit variance.
      decode_halo: rows of latents, and of the LR image, on either side that the pixels
        of a row of latents depend on; None if they depend on all.
    """

    factor: int
    channels: int
    decode_halo: int | None

    def encode(
        self, image_hr: Float[Array, "B H W 3"], image_lr: Float[Array, "B h w 3"]
    ) -> Float[Array, "B H/f W/f C"]:
        """Latents of HR images in [-1, 1], float32."""
        ...

    def decode(
        self, latents: Float[Array, "B H/f W/f C"], image_lr: Float[Array, "B h w 3"]
    ) -> Float[Array, "B H W 3"]:
        """HR images from latents; about [-1, 1], not clipped, float32."""
        ...

    def astype(self, dtype: jnp.dtype) -> Self:
        """The codec that computes in another type, where it computes much."""
        ...

    def settings(self) -> dict[str, Any]:
        """All but the weights, JSON-able."""
        ...

    def save_weights(self, folder: Path) -> list[str]:
        """Writes the weights into a folder; names of the files, none without any."""
        ...

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path | None) -> Self:
        """The codec with those settings and the weights of a folder.

        Raises:
          CodecError: it has weights and the folder is None or holds others.
          TypeError, ValueError: a setting that does not exist, or not like that.
        """
        ...
