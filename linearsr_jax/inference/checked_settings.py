"""Checks of the settings that users give, in Python and on the command line.

SETTINGS has each range once. `linearsr --help` must not wait for JAX or NumPy, so this
module imports neither.
"""

import contextlib
import functools
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

from linearsr_jax.core.limits import (
    MAX_GUIDANCE_SCALE,
    MAX_SCALE,
    MAX_SEEDS,
    MAX_SIDE,
    MAX_STEPS,
)
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
    import numpy as np

    if not isinstance(value, bool | np.bool_):
        raise UpscaleError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _whole(least: int, greatest: int) -> Callable[[str, Any], int]:
    return functools.partial(whole, least=least, greatest=greatest)


def _number(least: float, greatest: float) -> Callable[[str, Any], float]:
    return functools.partial(number, least=least, greatest=greatest)


# The check of each setting that is a number, called with its name and value.
SETTINGS: Mapping[str, Callable[[str, Any], Any]] = {
    "steps": _whole(1, MAX_STEPS),
    "seed": _whole(0, 2**32 - 1),
    "fidelity": _number(0, 1),
    "guidance_scale": _number(0, MAX_GUIDANCE_SCALE),
    "scale": _number(1, MAX_SCALE),
    "size: width": _whole(1, MAX_SIDE),
    "size: height": _whole(1, MAX_SIDE),
    "max_side": _whole(1, MAX_SIDE),
    "count": _whole(2, MAX_SEEDS),
    # In GB.
    "max_memory": _number(1e-9, 1e9),
}


def checked(name: str, value: Any) -> Any:
    """Returns the value of one of SETTINGS as an int or a float.

    Raises:
      UpscaleError: it is of another type, or out of range.
    """
    return SETTINGS[name](name, value)


def parsed(name: str, text: str) -> Any:
    """Returns the value of one of SETTINGS that a text stands for.

    Raises:
      UpscaleError: it stands for no number, or for one out of range.
    """
    value: Any = text
    for kind in (float, int):
        with contextlib.suppress(ValueError):
            value = kind(text)
    return checked(name, value)
