"""Opens pickles that hold numpy arrays, without running what else is in them.

A pickle can run any code when it is opened. This unpickler knows how to rebuild
numpy arrays and nothing else, which is all that the old JAX packages' weight files
need.
"""

import io
import pickle
from typing import Any

import numpy as np

# numpy's private array constructor, by the one public way that finds it under
# every version of numpy; pickles name it by a path that has moved.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Opens pickles of dicts, strings, numbers and numpy arrays, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of numpy's array constructors, or raises UnpicklingError."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}; only numpy arrays are allowed"
            ) from None


def load_arrays(data: bytes) -> dict[tuple[str, ...], np.ndarray]:
    """Reads nested dicts of arrays.

    Args:
        data: the pickle.

    Returns:
        Each array by the path of keys that leads to it.

    Raises:
        pickle.UnpicklingError: the pickle holds something other than numpy arrays.
    """
    return _flatten(_ArrayUnpickler(io.BytesIO(data)).load())


def _flatten(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested dicts to one dict keyed by path."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: leaf
        for name, branch in tree.items()
        for key, leaf in _flatten(branch, (*path, name)).items()
    }
