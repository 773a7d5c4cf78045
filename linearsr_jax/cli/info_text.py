"""What is installed, and what a model is."""

import dataclasses
import importlib.metadata
import math
import platform
from typing import Any

import jax

from linearsr_jax.codecs import describe_codec
from linearsr_jax.core.version import __version__
from linearsr_jax.pretrained.model_folder import (
    bundled_models,
    load_pretrained,
    parameter_shapes,
    weights_sha256,
)

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def describe(name_or_path: str) -> dict[str, Any]:
    """Collects versions, devices and a model's facts, JSON-able.

    parameters are those of one expert; sha256 has one entry for each.

    Raises:
      pretrained.PretrainedError: no such model.
    """
    model = load_pretrained(name_or_path)
    shapes = parameter_shapes(model.preset)
    return {
        "linearsr_jax": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [device.device_kind for device in jax.devices()],
        "bundled_models": bundled_models(),
        "model": {
            "name": model.name,
            "experts": len(model.experts),
            "boundaries": model.boundaries,
            "parameters": sum(math.prod(shape) for shape in shapes.values()),
            "sha256": weights_sha256(name_or_path),
            "preset": dataclasses.asdict(model.preset),
            "codec": describe_codec(model.codec),
        },
    }


def format_description(description: dict[str, Any], indent: str = "") -> str:
    """Sets a description as indented lines."""
    lines = []
    for name, value in description.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", format_description(value, indent + "  ")]
        else:
            text = (
                ", ".join(map(str, value)) or "none"
                if isinstance(value, (list, tuple))
                else value
            )
            lines.append(f"{indent}{name}: {text}")
    return "\n".join(lines)
