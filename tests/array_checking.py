"""Compares arrays with their annotations, Float[Array, "B H W 3"], while tests run.

    pytest --jaxtyping-packages=kernels_pallas,linearsr_jax,tests.array_checking.check

jaxtyping then hands every function of the packages to `check` and binds the letters: B
is the same number in all arrays of a call. What is checked is the shape and the kind of
number; whether an array is NumPy's or JAX's, and all other annotations, are left to the
type checker (`ty check`).
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import AbstractArray


def check(function: Callable) -> Callable:
    """Wraps a function to raise TypeError where an array belies its annotation."""
    hints = {
        name: hint
        for name, hint in function.__annotations__.items()
        if mentions_arrays(hint)
    }
    # JAX builds dataclasses that are pytrees from anything: shardings, shapes, None.
    if not hints or function.__name__ == "__init__":
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args, **kwargs):
        result = function(*args, **kwargs)
        values = signature.bind(*args, **kwargs).arguments | {"return": result}
        for name, hint in hints.items():
            if name in values and not fits(values[name], hint):
                raise TypeError(f"{name} is no {hint}")
        return result

    return checked


def mentions_arrays(hint: Any) -> bool:
    if is_array_hint(hint):
        return True
    return any(mentions_arrays(part) for part in typing.get_args(hint))


def is_array_hint(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def fits(value: Any, hint: Any) -> bool:
    if is_array_hint(hint):
        # Arithmetic takes Python's numbers for arrays of any kind without axes.
        is_number = isinstance(value, int | float)
        return is_number or isinstance(value, hint.dtype[Any, hint.dim_str])
    if hint is None or hint is type(None):
        return value is None
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if not inspect.isclass(origin):
        return True
    if not isinstance(value, origin):
        return False
    if origin is tuple and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(map(fits, value, parts))
    if issubclass(origin, Mapping):
        return all(fits(item, parts[1]) for item in value.values())
    if issubclass(origin, Sequence):
        return all(fits(item, parts[0]) for item in value)
    return True
