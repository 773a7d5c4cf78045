"""The manifest of `linearsr upscale`, and `--repeat`, which makes the same again."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr_jax.cli.arguments import UsageError
from linearsr_jax.cli.output_arguments import COLOR_FIXES, FORMATS
from linearsr_jax.core.files import sha256

if TYPE_CHECKING:
    from linearsr_jax.inference.manifest import Manifest
    from linearsr_jax.inference.upscaler import Upscaler

_logger = logging.getLogger(__name__)

# Options that decide what an output is, and those that decide how it rounds.
_SETTINGS = ("steps", "seed", "fidelity", "guidance_scale", "scale", "size", "max_side")
_SETTINGS += ("color_fix", "consistent", "quality", "dtype", "max_memory")
_SETTINGS += ("offload_experts", "max_pixels", "devices")
# What release 0.2 did not write down, and did.
_ADDED = {"devices": 1}


def make_manifest(args: argparse.Namespace, upscaler: "Upscaler") -> "Manifest":
    """Describes what the outputs of a command have in common."""
    import jax

    from linearsr_jax.inference.manifest import Manifest
    from linearsr_jax.pretrained.model_folder import model_sha256

    settings = {name: getattr(args, name) for name in _SETTINGS}
    model = upscaler.model
    if args.steps is None:
        settings["steps"] = model.preset.default_steps
    if args.fidelity is None and model.mean_experts:
        settings["fidelity"] = model.default_fidelity
    if args.condition:
        settings["condition_sha256"] = sha256(args.condition)
    return Manifest(
        model.name,
        model_sha256(args.model),
        settings,
        platform=jax.default_backend(),
        jax=jax.__version__,
    )


def set_arguments(args: argparse.Namespace) -> "Manifest":
    """Replaces the arguments by those that the image --repeat was made with.

    What is said about the file that is written is kept: the suffix of -o, and --format.

    Returns:
      The image's manifest.

    Raises:
      UsageError: it has no manifest, or is a map of uncertainty; or its input, model
        or condition is not there.
      ImageError: it cannot be read.
    """
    from linearsr_jax.core.image_formats import IMAGE_SUFFIXES
    from linearsr_jax.inference.manifest import (
        MAP_SETTING,
        ManifestError,
        read_manifest,
    )

    path = args.repeat
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        raise UsageError(f"--repeat {path}: {error}") from error
    if MAP_SETTING in manifest.settings:
        raise UsageError(f"--repeat {path}: is a map of uncertainty; name its image")
    args.inputs = [_find_input(args, manifest)]
    for name in _SETTINGS:
        settings = {**_ADDED, **manifest.settings}
        if name not in settings:
            raise UsageError(f"--repeat {path}: its manifest lacks {name}")
        if not _has_type(name, settings[name]):
            raise UsageError(f"--repeat {path}: its manifest has a wrong {name}")
        setattr(args, name, settings[name])
    if Path(args.output).suffix.lower() not in IMAGE_SUFFIXES:
        args.format = args.format or _format_of(path, manifest)
    args.size = args.size and tuple(args.size)
    args.tagger = None
    args.tags = None if args.condition else ", ".join(manifest.tags)
    _check_model(args, manifest)
    return manifest


def _has_type(name: str, value: object) -> bool:
    """Tells whether a setting may be what a manifest says, which anyone may edit.

    The settings that are not named here are checked where they are used.
    """
    if name == "color_fix":
        return isinstance(value, str) and value in COLOR_FIXES
    if value is None:
        return True
    if name == "size":
        return isinstance(value, list) and len(value) == 2
    is_whole = type(value) is int  # True is none
    return is_whole or name not in ("steps", "max_side", "quality", "max_pixels")


def warn_of_differences(path: Path, before: "Manifest", now: "Manifest") -> None:
    """Warns where the bytes may differ: other versions, or another kind of device.

    Args:
      path: the output that is made again.
      before: its manifest.
      now: that of the new one.
    """
    made_by, repeated_by = (
        f"linearsr_jax {each.version} with jax {each.jax} on {each.platform}"
        for each in (before, now)
    )
    if made_by != repeated_by:
        _logger.warning(
            "linearsr: %s was made by %s; by %s its bytes may differ",
            path,
            made_by,
            repeated_by,
        )


def _format_of(path: Path, manifest: "Manifest") -> str:
    name = manifest.settings.get("format")
    if name not in FORMATS:
        raise UsageError(f"--repeat {path}: its manifest lacks format")
    return name


def _find_input(args: argparse.Namespace, manifest: "Manifest") -> str:
    name = Path(manifest.input).name
    places = [Path(args.repeat).parent / name, Path(name)]
    given = [Path(name) for name in args.inputs] or places
    for path in given:
        if path.is_file() and sha256(path) == manifest.input_sha256:
            return str(path)
    others = given if args.inputs else [path for path in places if path.is_file()]
    if others:
        raise UsageError(
            f"{others[0]} is not the image that {args.repeat} was made of, or has "
            "changed since; name that image"
        )
    raise UsageError(f"the input {name} is not beside {args.repeat}; name it, too")


def _check_model(args: argparse.Namespace, manifest: "Manifest") -> None:
    from linearsr_jax.pretrained.model_folder import bundled_models, model_sha256

    if manifest.model in bundled_models():
        args.model = manifest.model
    if model_sha256(args.model) != manifest.model_sha256:
        raise UsageError(
            f"{args.repeat} was made by another model, {manifest.model}; give its "
            "folder with --model"
        )
    wanted = manifest.settings.get("condition_sha256")
    found = sha256(args.condition) if args.condition else None
    if wanted != found:
        raise UsageError(f"{args.repeat} was made with another --condition; give that")
