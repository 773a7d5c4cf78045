"""Checks what a JSON file says against the fields of a dataclass."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from linearsr_jax.core.errors import LinearSRError

Ranges = Mapping[str, tuple[float, float]]


class FieldError(LinearSRError, ValueError):
    """A field that is missing, unknown, of another type or out of range; one line."""


def check_fields(kind: Any, fields: Any, ranges: Ranges) -> dict[str, Any]:
    """Returns the fields as arguments of a dataclass; lists become tuples.

    Args:
      kind: dataclass whose annotations are bool, int, float, str, tuples of int or
        float, or one of these or None.
      fields: what JSON had; a whole number will do for a float.
      ranges: least and greatest value of a number, or of every number of a tuple, for
        each field that has numbers.

    Raises:
      FieldError: fields are no object, or one of them does not fit.
    """
    if not isinstance(fields, dict):
        raise FieldError(f"must be an object of {kind.__name__}'s fields, got {fields}")
    known = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(fields.keys() - known.keys()):
        raise FieldError(f"unknown fields: {', '.join(unknown)}")
    needed = {
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(needed - fields.keys()):
        raise FieldError(f"missing fields: {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    return {
        name: check_value(name, value, hints[name], ranges.get(name))
        for name, value in fields.items()
    }


def check_value(
    name: str, value: Any, hint: Any, limits: tuple[float, float] | None = None
) -> Any:
    """Returns a value of the type of the hint; see `check_fields`.

    Raises:
      FieldError: it is of another type, or outside the limits.
    """
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        inner, *rest = typing.get_args(hint)
        length = None if rest == [...] else 1 + len(rest)
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            raise FieldError(f"{name} must be a list of {length or 'several'}: {value}")
        return tuple(check_value(name, each, inner, limits) for each in value)
    accepted = (int, float) if hint is float else (hint,)
    # To Python, but not to JSON, true is a whole number.
    if type(value) not in accepted:
        raise FieldError(f"{name} must be {hint.__name__}, got {value!r:.80}")
    if hint in (int, float):
        if limits is None:
            raise TypeError(f"{name} has no range")
        least, greatest = limits
        # Compared before it is converted: an int may be too large for a float.
        if not least <= value <= greatest or not math.isfinite(value):
            raise FieldError(
                f"{name} must be from {least:g} to {greatest:g}, got {value!r:.80}"
            )
        return hint(value)
    return value
