"""The codec of the paper: DC-AE f32c32, one latent pixel for 32 x 32 HR pixels.

Its weights are frozen and not ours to ship: `linearsr convert --from dc-ae` makes a
folder of them from SANA's. A codec is a pytree whose leaves are its weights, so that
compiled functions take it as an argument; as a constant it would be part of the
program, 1.2 GB of it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util

from linearsr_jax.codecs.base import CodecError
from linearsr_jax.codecs.dc_ae_bands import decoder_halo, map_bands
from linearsr_jax.codecs.dc_ae_network import (
    DcAeConfig,
    Decoder,
    Encoder,
    parameter_shapes,
)
from linearsr_jax.core.array_types import Array, Float, PyTree
from linearsr_jax.core.tensor_files import TensorFileError, read_params, write_tensors
from linearsr_jax.models.layers import apply

WEIGHTS_FILE = "codec.safetensors"
# HR pixels that the decoder's convolution stages hold at once: 2 M of 128 float32
# channels are 1 GiB, and about three such arrays live at a time.
BAND_PIXELS = 2**21


@struct.dataclass
class DcAeCodec:
    """DC-AE with its weights; the LR image is not used.

    Attributes:
      params: {"encoder", "decoder"}, float32.
      config: sizes, and the scale of the latents.
      dtype: computation type; float16 overflows.
      band_pixels: HR pixels above which decoding goes in bands; see BAND_PIXELS.
      implementation: of the operations of `kernels_pallas` in the decoder.
    """

    params: PyTree
    config: DcAeConfig = struct.field(pytree_node=False, default=DcAeConfig())
    dtype: jnp.dtype = struct.field(pytree_node=False, default=jnp.float32)
    band_pixels: int = struct.field(pytree_node=False, default=BAND_PIXELS)
    implementation: str | None = struct.field(pytree_node=False, default=None)

    @property
    def factor(self) -> int:
        """See `Codec`."""
        return self.config.factor

    @property
    def channels(self) -> int:
        """See `Codec`."""
        return self.config.latent_channels

    @property
    def decode_halo(self) -> None:
        """See `Codec`: attention sees the whole image; `decode` has its own bands."""
        return None

    @property
    def keeps_colors(self) -> bool:
        """See `Codec`: they come from the latents."""
        return False

    def encode(
        self, image_hr: Float[Array, "B H W 3"], image_lr: Float[Array, "B H//4 W//4 3"]
    ) -> Float[Array, "B h w C"]:
        """See `Codec`.

        Raises:
          ValueError: a side does not fill whole latent pixels.
        """
        height, width = image_hr.shape[1:3]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"HR image is {width}x{height}; codec dc_ae needs sides that are "
                f"multiples of {self.factor}"
            )
        encoder = Encoder(self.config, self.dtype)
        latents = apply(encoder, self.params["encoder"], image_hr)
        return latents * self.config.scaling_factor

    def decode(
        self, latents: Float[Array, "B h w C"], image_lr: Float[Array, "B y x 3"]
    ) -> Float[Array, "B 4*y 4*x 3"]:
        """See `Codec`.

        The attention stages see the whole image, the convolution stages run in
        bands of rows if it is large; either way the result is the same to rounding.
        """
        decoder = Decoder(self.config, self.dtype, self.implementation)
        params = self.params["decoder"]
        latents = latents.astype(jnp.float32) / self.config.scaling_factor
        x = apply(decoder, params, latents, method="trunk")
        stages = self.config.first_attention
        halo = decoder_halo(self.config.decoder_depths[:stages])
        row_pixels = x.shape[0] * x.shape[2] * 4**stages
        return map_bands(
            lambda rows: apply(decoder, params, rows, method="tail"),
            x,
            rows=max(1, self.band_pixels // row_pixels - 2 * halo),
            halo=halo,
        )

    def astype(self, dtype: jnp.dtype) -> "DcAeCodec":
        """See `Codec`."""
        return dataclasses.replace(self, dtype=dtype)

    def settings(self) -> dict[str, Any]:
        """See `Codec`."""
        return self.config.to_dict()

    def save_weights(self, folder: Path) -> list[str]:
        """See `Codec`."""
        flat = traverse_util.flatten_dict(self.params, sep=".")
        shapes = {name: value.shape for name, value in flat.items()}
        write_tensors(
            folder / WEIGHTS_FILE,
            shapes,
            lambda name: np.asarray(flat[name], np.float32),
            {},
        )
        return [WEIGHTS_FILE]

    @classmethod
    def load(cls, settings: dict[str, Any], folder: Path | None) -> "DcAeCodec":
        """See `Codec`."""
        if folder is None:
            raise CodecError(
                "codec dc_ae has weights of its own and none are given; make a folder "
                "of them with `linearsr convert --from dc-ae` and set codec_folder"
            )
        config = DcAeConfig.from_dict(settings)
        try:
            shapes = parameter_shapes(config)
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            # Sizes of which one must divide another: the layers themselves say so.
            raise CodecError(f"no network has these sizes: {config}") from error
        try:
            params = read_params(folder / WEIGHTS_FILE, shapes)
        except TensorFileError as error:
            raise CodecError(str(error)) from error
        return cls(params, config)
