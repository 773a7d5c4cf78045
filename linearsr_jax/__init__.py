"""LinearSR in JAX: x4 super-resolution of photographs with linear attention.

from linearsr_jax import Upscaler, read_image, write_image
image_hr = Upscaler.from_pretrained("nano")(read_image("photo.jpg"))
write_image("photo_x4.png", image_hr)

What is wrong with an image, a setting or a model raises a LinearSRError.
"""

import importlib
from typing import Any

from linearsr_jax.core.version import __version__

# By the module that has it; lazily: `linearsr --help` must not wait for JAX or Pillow.
_PLACES = {
    "ConditionError": "inference.guidance",
    "ImageError": "core.image_formats",
    "LinearSRError": "core.errors",
    "PretrainedError": "pretrained.model_folder",
    "UpscaleError": "inference.errors",
    "Upscaler": "inference.upscaler",
    "read_image": "core.image_io",
    "write_image": "core.image_io",
}

__all__ = [
    "ConditionError",
    "ImageError",
    "LinearSRError",
    "PretrainedError",
    "UpscaleError",
    "Upscaler",
    "__version__",
    "read_image",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
