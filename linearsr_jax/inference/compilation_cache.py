"""Compiled programs kept between starts of the command.

Most of what upscaling one small image takes is compiling. JAX can keep programs in a
folder; here it gets one, unless the user gave one (JAX_COMPILATION_CACHE_DIR).
"""

import hashlib
import os
import platform
from pathlib import Path

import jax

# Of compiling, from which on a program is kept.
_MIN_SECONDS = 0.3
_CPU_INFO = Path("/proc/cpuinfo")


def enable_compilation_cache() -> Path | None:
    """Makes JAX keep what it compiles from now on.

    Programs for CPUs hold instructions that other ones may lack, and a home may be
    shared by many machines: each kind of CPU has its own folder.

    Returns:
      The folder, in the user's cache; None if it cannot be made, or the user gave one.
    """
    # jax adds its options to the class at run time, where no checker sees them.
    if jax.config.jax_compilation_cache_dir:  # ty: ignore[missing-attribute]
        return None
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "linearsr_jax" / f"jax-{jax.__version__}-{_cpu_kind()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    return folder


def _cpu_kind() -> str:
    """Returns eight digits that identify the instructions of this CPU."""
    described = platform.machine() + platform.processor()
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
        described += next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return hashlib.sha256(described.encode()).hexdigest()[:8]
