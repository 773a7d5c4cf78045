"""Checksums of arrays that lie on any mesh, computed where they lie.

An array's fingerprint is a sum over its elements of a hash of (element, index), modulo
2**32. Sums of integers do not depend on their order, so nor does the fingerprint on how
the array is split; and each hash is a bijection of its element, so a change of a single
element is always seen, and any other with probability 1 - 2**-32. Computing it reads
the array once; neither files nor hosts are read.
"""

import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, PyTree, UInt32

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def fingerprints(tree: PyTree) -> dict[str, int]:
    """Computes the fingerprint of each array, by its path in the tree.

    Args:
      tree: arrays of types of up to four bytes an element, on the present mesh. On
        several hosts, call it on all of them.
    """
    # A program for each shape: moments and averaged weights share that of the weights,
    # where one program of all arrays would take several times as long to compile. Each
    # is waited for: sums over devices that overlap can block each other on CPU.
    return {
        jax.tree_util.keystr(path): int(_fingerprint(array))
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
    }


@jax.jit
def _fingerprint(array: Array) -> UInt32[Array, ""]:
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, _UNSIGNED[array.dtype.itemsize])
    bits = bits.astype(jnp.uint32)
    index, stride = jnp.zeros(array.shape, jnp.uint32), 1
    for axis in reversed(range(array.ndim)):
        row = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        index += row * jnp.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return jnp.sum(_mix(bits ^ _mix(index + jnp.uint32(1))), dtype=jnp.uint32)


def _mix(x):
    """Permutes the 32-bit numbers: the last steps of MurmurHash3 (A. Appleby)."""
    x ^= x >> 16
    x *= jnp.uint32(0x85EBCA6B)
    x ^= x >> 13
    x *= jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
