"""LinearSR in JAX: x4 super-resolution of photographs with linear attention.

from linearsr_jax import Upscaler
image_hr = Upscaler.from_pretrained("nano")(image_lr)
"""

from typing import Any

from linearsr_jax.core.version import __version__

__all__ = ["Upscaler", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazily: `linearsr --help` must not wait for JAX.
    if name == "Upscaler":
        from linearsr_jax.inference.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
