"""Makes glibc keep freed memory for the next allocation."""

import ctypes
import importlib.util

import jax

# What an installed accelerator brings; see JAX's installation guide.
_PLUGINS = ("jax_plugins", "libtpu")

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
# How much more than it needs the heap grows by, in bytes.
_GROWTH = 256 * 2**20


def keep_freed_memory() -> bool:
    """Stops the C library from returning large blocks to the system.

    XLA allocates the temporaries of a program anew in each call. On CPU glibc maps them
    and unmaps them after it, so that each step of training faults in every page again:
    that took a fifth of the CPU time of nano's. The process stays as large as it ever
    was.

    Call it before JAX opens its devices: a thread keeps the arena that it has.

    Returns:
      Whether the C library took the settings; only glibc knows them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {
        _MMAP_MAX: 0,
        _TRIM_THRESHOLD: -1,
        _TOP_PAD: _GROWTH,
        # Other arenas are heaps of 64 MB, in which nothing larger has a place.
        _ARENA_MAX: 1,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def keep_freed_memory_on_cpu() -> None:
    """Calls `keep_freed_memory` where JAX will use CPUs, which it need not know yet."""
    platforms = jax.config.jax_platforms  # ty: ignore[missing-attribute]
    has_plugin = any(importlib.util.find_spec(name) for name in _PLUGINS)
    if platforms == "cpu" or not (platforms or has_plugin):
        keep_freed_memory()
