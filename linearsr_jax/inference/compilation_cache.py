"""Compiled programs kept between starts of the command.

Most of what upscaling one small image takes is compiling. JAX can keep programs in a
folder; here it gets one, unless the user gave one (JAX_COMPILATION_CACHE_DIR).
"""

import functools
import hashlib
import logging
import os
import platform
import threading
from pathlib import Path

import jax

# Of compiling, from which on a program is kept.
_MIN_SECONDS = 0.3
_CPU_INFO = Path("/proc/cpuinfo")

# JAX's names of what happens: a program is looked up in the folder; it is there, or
# compiled.
_WANTED = "/jax/compilation_cache/compile_requests_use_cache"
_READY = "/jax/core/compile/backend_compile_duration"
# Of compiling, after which it is said why nothing happens.
_PATIENCE = 0.5

_logger = logging.getLogger(__name__)


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


@functools.cache
def announce_compiling() -> None:
    """Makes the first program that takes long to compile say so, in one line."""
    announcer = Announcer(_PATIENCE)
    jax.monitoring.register_event_listener(announcer.on_event)
    jax.monitoring.register_event_duration_secs_listener(announcer.on_duration)


class Announcer:
    """Listens to JAX; at most one line in its life."""

    def __init__(self, patience: float):
        """Waits so many seconds, from a program being wanted to the line."""
        self._patience = patience
        self._timer: threading.Timer | None = None

    def on_event(self, event: str, **_: str | int) -> None:
        """Starts waiting if a program is looked up."""
        if event == _WANTED and self._timer is None:
            self._timer = threading.Timer(self._patience, self._say)
            self._timer.daemon = True
            self._timer.start()

    def on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Ends waiting if the program is there; not if it came too late."""
        if event == _READY and self._timer is not None and self._timer.is_alive():
            self._timer.cancel()
            self._timer = None

    def _say(self) -> None:
        _logger.info("linearsr: compiling for this size; kept for the next start")


def _cpu_kind() -> str:
    """Returns eight digits that identify the instructions of this CPU."""
    described = platform.machine() + platform.processor()
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
        described += next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return hashlib.sha256(described.encode()).hexdigest()[:8]
