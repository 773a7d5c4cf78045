"""Loads config files, applies overrides, and locks the result."""

import ast
import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from linearsr_jax.core.errors import LinearSRError

# From which likeness on a field may be the one that was meant; `difflib`'s own.
_NEAR = 0.6


class ConfigError(LinearSRError):
    """Raised for an unusable config file or override; one line that says what to do."""


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs `get_config(arg)` of a config file.

    Args:
      spec: "path/to/config.py" or "path/to/config.py:arg".
      overrides: "field=value" or "group.field=value". A value is a Python literal;
        anything else is taken as a string.

    Returns:
      The locked config.

    Raises:
      ConfigError: the file is missing or has no get_config, a field is unknown (the
        message names one that is near), or a value has another type.
    """
    name, _, arg = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{name}: no such config file; see configs/ for examples")
    module = _import(path)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{name}: has no function get_config")
    try:
        config = module.get_config(arg) if arg else module.get_config()
    except ValueError as error:
        raise ConfigError(f"{spec}: {error}") from error
    config.lock()
    apply_overrides(config, overrides)
    return config


def load_stages(
    specs: Sequence[str], overrides: Sequence[str] = ()
) -> dict[str, ConfigDict]:
    """Loads the configs of several stages, each named after its file.

    Args:
      specs: see `load_config`.
      overrides: see `load_config`; "name.field=value" changes only that stage.

    Returns:
      The locked configs by name, in the given order.

    Raises:
      ConfigError: two files have the same name; see also `load_config`.
    """
    names = [Path(spec.partition(":")[0]).stem for spec in specs]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"--config: two files have the same name among {', '.join(names)}"
        )
    stages = {}
    for name, spec in zip(names, specs, strict=True):
        own = []
        for override in overrides:
            stage, _, rest = override.partition(".")
            if stage not in names:
                own.append(override)
            elif stage == name:
                own.append(rest)
        try:
            stages[name] = load_config(spec, own)
        except ConfigError as error:
            raise ConfigError(f"stage {name}: {error}") from error
    return stages


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Changes fields of a locked config; see `load_config`."""
    for override in overrides:
        _apply(config, override)


def _import(path: Path):
    # Config files may import each other, as in `from configs import pretrain`.
    root = str(path.resolve().parent.parent)
    spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, root)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: cannot be run: {error}") from error
    finally:
        sys.path.remove(root)
    return module


def _apply(config: ConfigDict, override: str) -> None:
    field, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--override {override}: write it as field=value")
    known = _fields(config)
    if field not in known:
        near = max(known, key=lambda name: _similarity(field, name))
        hint = "linearsr_jax/config/defaults.py lists them"
        if _similarity(field, near) >= _NEAR:
            hint = f"nearest is {near}"
        raise ConfigError(f"--override {override}: no such field; {hint}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(known[field], str) and not isinstance(value, str):
        value = text  # a folder may be named 2024
    *groups, last = field.split(".")
    for group in groups:
        config = config[group]
    try:
        if value is None:
            raise TypeError
        config[last] = value
    except TypeError:
        kind, example = type(known[field]).__name__, known[field]
        raise ConfigError(
            f"--override {override}: {field} is a {kind}, as in '{field}={example}'"
        ) from None


def _similarity(field: str, name: str) -> float:
    # Forgetting the group (crop_size for data.crop_size) counts like a misspelling.
    candidates = (name, name.rpartition(".")[2])
    return max(difflib.SequenceMatcher(None, field, c).ratio() for c in candidates)


def _fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    fields = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields
