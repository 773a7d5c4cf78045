"""The interface between images and latents."""

from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.core.errors import LinearSRError


class CodecError(LinearSRError):
    """Raised for weights of a codec that cannot be used; one line with the cure."""


class Codec(Protocol):
    """Turns HR images into latents and back, given the LR image.

    A pytree whose leaves are its weights: compiled functions take it as an argument.
    """

    @property
    def factor(self) -> int:
        """HR pixels per latent pixel, in each direction."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the latents, which have about unit variance."""
        ...

    @property
    def decode_halo(self) -> int | None:
        """Rows on either side that the pixels of a row of latents depend on.

        Of latents and of the LR image; None if the pixels depend on all rows.
        """
        ...

    @property
    def keeps_colors(self) -> bool:
        """Whether the LR image's own colours are part of every decoded image."""
        ...

    def encode(
        self, image_hr: Float[Array, "B H W 3"], image_lr: Float[Array, "B H//4 W//4 3"]
    ) -> Float[Array, "B h w C"]:
        """Encodes HR images in [-1, 1]; returns float32 latents."""
        ...

    def decode(
        self, latents: Float[Array, "B h w C"], image_lr: Float[Array, "B y x 3"]
    ) -> Float[Array, "B 4*y 4*x 3"]:
        """Decodes latents to float32 HR images, about [-1, 1] and not clipped."""
        ...

    def astype(self, dtype: jnp.dtype) -> "Codec":
        """Returns the codec that runs its expensive parts in another type."""
        ...

    def settings(self) -> dict[str, Any]:
        """Returns everything but the weights, JSON-able."""
        ...

    def save_weights(self, folder: Path) -> list[str]:
        """Writes the weights, if any, into a folder; returns the names of the files."""
        ...

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path | None) -> "Codec":
        """Makes the codec of these settings, with the weights of a folder.

        Raises:
          CodecError: it has weights and the folder is None or holds others.
          ValueError: a setting that does not exist, or not like that.
        """
        ...
