"""jaxtyping's types of arrays, for annotations.

On a bare machine with no more than jax, flax and numpy they are stand-ins that say
nothing, so that the kernels, the networks and their benchmarks run there.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Real, UInt8, UInt32
else:
    try:
        from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Real, UInt8, UInt32
    except ImportError:
        from jax import Array

        class _Untyped:
            def __class_getitem__(cls, _: Any) -> type:
                return cls

        Bool = Float = Int = Key = PyTree = Real = UInt8 = UInt32 = _Untyped
