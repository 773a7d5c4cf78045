"""The interface between images and latents."""

from typing import Protocol

from linearsr_jax.array_types import Array, Float

# HR size over LR size; the one scale this project trains for.
SCALE = 4


class Codec(Protocol):
    """Turns HR images into latents and back, given the LR image.

    Attributes:
      factor: HR pixels per latent pixel, in each direction.
      channels: channels of the latents, which have about unit variance.
    """

    factor: int
    channels: int

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
