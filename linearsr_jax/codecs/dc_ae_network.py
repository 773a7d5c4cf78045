"""DC-AE's encoder and decoder (f32c32, as SANA uses them).

Chen et al., "Deep Compression Autoencoder" (ICLR 2025, arXiv 2410.10733). Stage 0 is
the full resolution in both; each further stage halves it. The first stages are made
of residual blocks, the others of attention blocks. Deterministic: no posterior.

Differs from diffusers' AutoencoderDC in: the last norm and convolution of the
decoder are always float32, since they make the image.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from linearsr_jax.codecs.dc_ae_blocks import (
    AffineRMSNorm,
    AttentionBlock,
    Conv,
    Down,
    ResBlock,
    Up,
    mean_of_groups,
)
from linearsr_jax.core.array_types import Array, Float, Key, PyTree
from linearsr_jax.core.checked_fields import Ranges, check_fields

_MAX_STAGES = 8
_RANGES: Ranges = {
    "widths": (1, 16384),
    "encoder_depths": (0, 64),
    "decoder_depths": (0, 64),
    "first_attention": (0, _MAX_STAGES),
    "head_size": (1, 4096),
    "latent_channels": (1, 4096),
    "scaling_factor": (1e-6, 1e6),
}


@dataclasses.dataclass(frozen=True)
class DcAeConfig:
    """Sizes of a DC-AE; the defaults are f32c32 of SANA 1.0, 1.5 and Sprint.

    Attributes:
      widths: channels of each stage, stage 0 (full resolution) first.
      encoder_depths, decoder_depths: blocks of each stage.
      first_attention: the stage from which on blocks are attention blocks.
      head_size: channels per attention head; divides the widths of those stages.
      latent_channels: divides the last width.
      scaling_factor: takes the encoder's output to about unit variance.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_depths: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_depths: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    first_attention: int = 3
    head_size: int = 32
    latent_channels: int = 32
    scaling_factor: float = 0.41407

    def __post_init__(self):
        lengths = {
            len(x) for x in (self.widths, self.encoder_depths, self.decoder_depths)
        }
        if len(lengths) != 1:
            raise ValueError(f"widths and depths must have one length: {self}")
        if not 0 < len(self.widths) <= _MAX_STAGES:
            raise ValueError(f"there must be 1 to {_MAX_STAGES} stages: {self}")

    @property
    def factor(self) -> int:
        """HR pixels per latent pixel, in each direction."""
        return 2 ** (len(self.widths) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DcAeConfig":
        """Inverts `to_dict`; lists become tuples.

        Raises:
          ValueError: a field that does not exist, of another type or out of range, or
            lists that do not fit.
        """
        return cls(**check_fields(cls, fields, _RANGES))


class Stage(nn.Module):
    """The blocks of one resolution, and the layer to or from the next.

    Attributes:
      width: channels of the blocks.
      depth: number of blocks.
      head_size: channels per head in attention blocks; None for residual blocks.
      dtype: computation type.
      down_width: channels after a last layer that halves the size.
      is_upsampled: whether a first layer doubles the size.
      implementation: of the operations of `kernels_pallas` in attention blocks.
    """

    width: int
    depth: int
    head_size: int | None
    dtype: jnp.dtype
    down_width: int | None = None
    is_upsampled: bool = False
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        """Applies the stage."""
        if self.is_upsampled:
            x = Up(self.width, self.dtype, name="up")(x)
        for index in range(self.depth):
            name = f"block_{index}"
            if self.head_size is None:
                block = ResBlock(self.width, self.dtype, name=name)
            else:
                block = AttentionBlock(
                    self.width,
                    self.head_size,
                    self.dtype,
                    self.implementation,
                    name=name,
                )
            x = block(x)
        if self.down_width is not None:
            x = Down(self.down_width, self.dtype, name="down")(x)
        return x


class Encoder(nn.Module):
    """Image to latents.

    Attributes:
      config: sizes.
      dtype: computation type.
    """

    config: DcAeConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Encodes an image in [-1, 1] to float32 latents, not yet scaled.

        The sides of the image are multiples of the factor.
        """
        config = self.config
        x = Conv(config.widths[0], self.dtype, name="conv_in")(image)
        for index, width in enumerate(config.widths):
            is_last = index == len(config.widths) - 1
            x = Stage(
                width,
                config.encoder_depths[index],
                config.head_size if index >= config.first_attention else None,
                self.dtype,
                down_width=None if is_last else config.widths[index + 1],
                name=f"stages_{index}",
            )(x)
        channels = config.latent_channels
        latents = Conv(channels, self.dtype, name="conv_out")(x)
        return (latents + mean_of_groups(x, channels)).astype(jnp.float32)


class Decoder(nn.Module):
    """Latents to image, in two parts: what sees the whole image, and what does not.

    Attributes:
      config: sizes.
      dtype: computation type.
      implementation: of the operations of `kernels_pallas`.
    """

    config: DcAeConfig
    dtype: jnp.dtype = jnp.float32
    implementation: str | None = None

    def setup(self):
        """Makes the layers of both parts."""
        config = self.config
        self.conv_in = Conv(config.widths[-1], self.dtype)
        self.stages = [
            Stage(
                width,
                config.decoder_depths[index],
                config.head_size if index >= config.first_attention else None,
                self.dtype,
                is_upsampled=index < len(config.widths) - 1,
                implementation=self.implementation,
            )
            for index, width in enumerate(config.widths)
        ]
        self.norm_out = AffineRMSNorm()
        self.conv_out = Conv(3, jnp.float32, precision=jax.lax.Precision.HIGHEST)

    def __call__(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W 3"]:
        """Decodes the encoder's latents to a float32 image, about [-1, 1]."""
        return self.tail(self.trunk(latents))

    def trunk(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B y x C"]:
        """Runs the attention stages; s = 2^first_attention."""
        copies = self.config.widths[-1] // self.config.latent_channels
        latents = latents.astype(self.dtype)
        x = self.conv_in(latents) + jnp.repeat(latents, copies, axis=-1)
        for stage in reversed(self.stages[self.config.first_attention :]):
            x = stage(x)
        return x

    def tail(self, x: Float[Array, "B y x C"]) -> Float[Array, "B H W 3"]:
        """Runs the convolution stages and the output layers."""
        for stage in reversed(self.stages[: self.config.first_attention]):
            x = stage(x)
        return self.conv_out(nn.relu(self.norm_out(x.astype(jnp.float32))))


def init_params(
    config: DcAeConfig, key: Key[Array, ""], *, boxed: bool = False
) -> PyTree:
    """Draws initial parameters {"encoder", "decoder"}, float32.

    Args:
      config: sizes.
      key: random key.
      boxed: whether to wrap the parameters with their logical axes.
    """
    key_encoder, key_decoder = jax.random.split(key)
    image = jnp.zeros((1, config.factor, config.factor, 3))
    latents = jnp.zeros((1, 1, 1, config.latent_channels))
    params = {
        "encoder": Encoder(config).init(key_encoder, image)["params"],
        "decoder": Decoder(config).init(key_decoder, latents)["params"],
    }
    return params if boxed else nn.meta.unbox(params)


@functools.cache
def parameter_shapes(config: DcAeConfig) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the parameters, as in a weights file.

    The result is cached, for tracing the network takes a second: do not change it.
    """
    abstract = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    flat = traverse_util.flatten_dict(abstract, sep=".")
    return {name: tuple(value.shape) for name, value in flat.items()}
