"""Array types used in public signatures.

Axis letters: B batch, H W rows and columns of an image, h w of its latents, y x of a
smaller image (in most places the LR one), C channels, N tokens, T condition tokens,
D width, K head size. In `Float[Array, "B N H K"]` H is the number of attention heads.
The annotations cost nothing at run time; tests check them, see docs/development.md.
"""

import numpy as np

from kernels_pallas.array_types import (
    Array,
    Bool,
    Float,
    Int,
    Key,
    PyTree,
    Real,
    UInt8,
    UInt32,
)

# An array of NumPy or of JAX, where either will do.
HostOrDevice = np.ndarray | Array

__all__ = [
    "Array",
    "Bool",
    "Float",
    "HostOrDevice",
    "Int",
    "Key",
    "PyTree",
    "Real",
    "UInt8",
    "UInt32",
]
