"""Checks of the settings that users of the Python API give."""

import numbers
import operator
from typing import Any

import numpy as np

from linearsr_jax.inference.errors import UpscaleError


def whole(name: str, value: Any, least: int, greatest: int) -> int:
    """Returns a whole number of any kind, numpy's too, as an int.

    Raises:
      UpscaleError: it is not one, or out of range.
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or not least <= found <= greatest:
        raise UpscaleError(
            f"{name} must be a whole number from {least} to {greatest}, got {value!r}"
        )
    return found


def number(name: str, value: Any, least: float, greatest: float) -> float:
    """Returns a number of any kind, numpy's too, as a float.

    Raises:
      UpscaleError: it is not one, or out of range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not least <= value <= greatest:
        raise UpscaleError(
            f"{name} must be a number from {least:g} to {greatest:g}, got {value!r}"
        )
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Returns True or False.

    Raises:
      UpscaleError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise UpscaleError(f"{name} must be True or False, got {value!r}")
    return bool(value)
