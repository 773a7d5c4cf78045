"""Compiled programs kept between starts of the command.

Most of what upscaling one small image takes is compiling. JAX can keep programs in a
folder; here it gets one, unless the user gave one (JAX_COMPILATION_CACHE_DIR).
"""

import contextlib
import contextvars
import functools
import hashlib
import logging
import os
import platform
import threading
import time
from collections.abc import Generator
from pathlib import Path

import jax

# Of compiling, from which on a program is kept.
_MIN_SECONDS = 0.3
_CPU_INFO = Path("/proc/cpuinfo")

# JAX's names of what happens: a program is looked up in the folder; it is there, or
# compiled.
_WANTED = "/jax/compilation_cache/compile_requests_use_cache"
_READY = "/jax/core/compile/backend_compile_duration"
# Seconds of compiling, after which it is said why nothing happens, and between looks.
_PATIENCE, _INTERVAL = 0.5, 0.1

_logger = logging.getLogger(__name__)
_purpose = contextvars.ContextVar("purpose", default="this size")


def own_folder() -> Path:
    """Returns the folder in the user's cache, which may be missing.

    Programs for CPUs hold instructions that other ones may lack, and a home may be
    shared by many machines: each kind of CPU has its own folder.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "linearsr_jax" / f"jax-{jax.__version__}-{_cpu_kind()}"


def enable_compilation_cache() -> Path | None:
    """Makes JAX keep what it compiles from now on.

    Returns:
      `own_folder`; None if it cannot be made, or the user gave another.
    """
    # jax adds its options to the class at run time, where no checker sees them.
    if jax.config.jax_compilation_cache_dir:  # ty: ignore[missing-attribute]
        return None
    folder = own_folder()
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


@contextlib.contextmanager
def compiling_for(purpose: str) -> Generator[None]:
    """Makes a context whose programs are for this, as `announce_compiling` says it."""
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


class Announcer:
    """Listens to JAX; at most one line in its life."""

    def __init__(self, patience: float):
        """Takes the seconds of CPU after which a program is being compiled.

        Fetching one takes fewer, however busy the machine is.
        """
        self._patience = patience
        self._is_ready = threading.Event()
        self._was_said = False

    def on_event(self, event: str, **_: str | int) -> None:
        """Starts waiting if a program is looked up."""
        if event == _WANTED and not self._was_said:
            self._is_ready.set()  # a wait before this one ends
            self._is_ready = threading.Event()
            # The context is that of the thread that compiles.
            arguments = self._is_ready, _purpose.get()
            threading.Thread(target=self._wait, args=arguments, daemon=True).start()

    def on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Ends waiting if the program is there."""
        if event == _READY:
            self._is_ready.set()

    def _wait(self, is_ready: threading.Event, purpose: str) -> None:
        start = time.process_time()
        while not is_ready.wait(_INTERVAL):
            if time.process_time() - start >= self._patience:
                self._was_said = True
                _logger.info(
                    "linearsr: compiling for %s; kept for the next start", purpose
                )
                return


def _cpu_kind() -> str:
    """Returns eight digits that identify the instructions of this CPU."""
    described = platform.machine() + platform.processor()
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
        described += next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return hashlib.sha256(described.encode()).hexdigest()[:8]
