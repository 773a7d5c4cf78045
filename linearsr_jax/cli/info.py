"""`linearsr info`: describes the installation and a model."""

import argparse
import dataclasses
import json
import math
import platform
from typing import Any

from linearsr_jax.cli.arguments import add_json, add_model
from linearsr_jax.core.version import __version__

HELP = "show versions, devices and a model's facts"

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the description."""
    description = describe(args.model)
    print(json.dumps(description) if args.json else _format(description))
    return 0


def describe(name_or_path: str) -> dict[str, Any]:
    """Collects versions, devices and the facts of a model.

    Args:
      name_or_path: name of a bundled model, or model folder.

    Returns:
      Values that JSON can store. `parameters` counts those of one expert; `sha256` is
      that of `weights_sha256`.

    Raises:
      PretrainedError: there is no such model.
    """
    import jax

    from linearsr_jax.codecs import describe_codec
    from linearsr_jax.models.parameter_shapes import parameter_shapes
    from linearsr_jax.pretrained.model_folder import (
        bundled_models,
        load_pretrained,
        weights_sha256,
    )

    model = load_pretrained(name_or_path)
    shapes = parameter_shapes(model.preset)
    return {
        "linearsr_jax": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
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


def _version(package: str) -> str:
    # Here, because it takes a third of the time of --help.
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _format(description: dict[str, Any], indent: str = "") -> str:
    """Lays a description out as indented lines."""
    lines = []
    for name, value in description.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", _format(value, indent + "  ")]
        else:
            text = (
                ", ".join(map(str, value)) or "none"
                if isinstance(value, (list, tuple))
                else value
            )
            lines.append(f"{indent}{name}: {text}")
    return "\n".join(lines)
