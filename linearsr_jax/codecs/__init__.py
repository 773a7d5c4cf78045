"""Between images and latents: the codec interface and the codecs by name."""

from linearsr_jax.codecs.base import SCALE, Codec
from linearsr_jax.codecs.pixel import PixelCodec

CODECS: dict[str, type[Codec]] = {"pixel": PixelCodec}

__all__ = ["CODECS", "SCALE", "Codec", "PixelCodec"]
