"""Between images and latents: the codec interface and the codecs by name."""

from linearsr_jax.codecs.base import Codec, CodecError
from linearsr_jax.codecs.dc_ae import DcAeCodec
from linearsr_jax.codecs.loading import (
    CODECS,
    describe_codec,
    load_codec,
    make_codec,
)
from linearsr_jax.codecs.pixel import PixelCodec

__all__ = [
    "CODECS",
    "Codec",
    "CodecError",
    "DcAeCodec",
    "PixelCodec",
    "describe_codec",
    "load_codec",
    "make_codec",
]
