"""LinearSR in JAX: x4 super-resolution of photographs with linear attention.

from linearsr_jax import Upscaler, read_image, write_image
image_hr = Upscaler.from_pretrained("nano")(read_image("photo.jpg"))
write_image("photo_x4.png", image_hr)
"""

from typing import Any

from linearsr_jax.core.version import __version__

__all__ = ["Upscaler", "__version__", "read_image", "write_image"]


def __getattr__(name: str) -> Any:
    # Lazily: `linearsr --help` must not wait for JAX or Pillow.
    if name == "Upscaler":
        from linearsr_jax.inference.upscaler import Upscaler

        return Upscaler
    if name in ("read_image", "write_image"):
        from linearsr_jax.core import image_io

        return getattr(image_io, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
