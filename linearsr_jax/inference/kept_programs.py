"""Programs for CPUs that a later start of the command finds without tracing them.

JAX finds its own kept programs by what tracing yields, and tracing takes about a
quarter of the time of a small image. Here a program is found by what it is traced from:
the source of this project, versions, the device, JAX's settings, and the shapes of the
inputs. It lies in the folder of `compilation_cache`. Where the user chose another one
nothing is kept here: who changes this package as it runs, as tests do, needs a trace
each time.
"""

import contextlib
import hashlib
import logging
import math
import os
import pickle
import stat
import zlib
from collections.abc import Callable, Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

import kernels_pallas
import linearsr_jax
from linearsr_jax.core.files import written_whole
from linearsr_jax.inference.compilation_cache import own_folder
from linearsr_jax.inference.memory_budget import is_out_of_memory

# The event of JAX's that says that a program came from JAX's own folder.
_HIT = "/jax/compilation_cache/cache_hits"
_MIN_SECONDS = "jax_persistent_cache_min_compile_time_secs"

_logger = logging.getLogger(__name__)


def _hash_sources() -> str:
    digest = hashlib.sha256()
    for package in (linearsr_jax, kernels_pallas):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


# Now, because what runs has just been read; the files may change before it is traced.
_SOURCES = _hash_sources()


def keep_programs(function: Callable[..., Any], described: str) -> Callable[..., Any]:
    """Makes a jitted function keep its programs between starts.

    Args:
      function: result of jax.jit for one device, without static or donated arguments,
        called with positional arguments only.
      described: all that decides what it computes, but for the source of this project
        and the shapes and types of its arguments.

    Returns:
      A function that does what the given one does; the given one itself on other
      devices than CPUs, and without `enable_compilation_cache`.
    """
    folder = _find_folder()
    if folder is None or jax.default_backend() != "cpu":
        return function
    programs: dict[str, Callable[..., Any]] = {}

    def call(*arguments):
        """Runs the program for these shapes; makes it if there is none."""
        text = f"{described} {_describe(arguments)}"
        if text not in programs:
            name = hashlib.sha256(text.encode()).hexdigest()
            path = folder / f"linearsr-{name}.program"
            if program := _load(path, _device(arguments)):
                try:
                    # JAX waits for nothing by itself, not even for errors.
                    result = jax.block_until_ready(program(*arguments))
                    programs[text] = program
                    return result
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    _discard(path, error)
            programs[text] = _compile(function, arguments, path)
        return programs[text](*arguments)

    return call


def _find_folder() -> Path | None:
    # jax adds its options to the class at run time, where no checker sees them.
    chosen = jax.config.jax_compilation_cache_dir  # ty: ignore[missing-attribute]
    # It may be gone: users may delete it at any time.
    if not chosen or Path(chosen) != own_folder() or not os.path.isdir(chosen):
        return None
    status = Path(chosen).stat()
    # A pickle runs code when it is read: nobody else may have put it there.
    is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    is_shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return Path(chosen) if is_own and not is_shared else None


def _load(path: Path, device: jax.Device) -> Callable[..., Any] | None:
    try:
        return serialize_executable.deserialize_and_load(
            *pickle.loads(zlib.decompress(path.read_bytes())),
            execution_devices=[device],
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # A damaged file fails in many ways.
        _discard(path, error)
        return None


def _discard(path: Path, error: Exception) -> None:
    _logger.debug("%s: cannot be used: %s", path, error)
    with contextlib.suppress(OSError):
        path.unlink()


def _compile(function, arguments, path: Path) -> Callable[..., Any]:
    with _without_jax_keeping() as hits:
        compiled = function.lower(*arguments).compile()
    if hits:
        # Written again, what JAX had read from a file lacks functions.
        return compiled
    try:
        data = pickle.dumps(serialize_executable.serialize(compiled))
        with written_whole(path) as temporary:
            temporary.write_bytes(zlib.compress(data, level=1))
    except Exception as error:  # Such as a full disk: the image matters more.
        _logger.debug("%s: cannot be kept: %s", path, error)
    return compiled


@contextlib.contextmanager
def _without_jax_keeping() -> Generator[list[str]]:
    """Keeps JAX from writing programs; yields a list of those that it had written."""
    hits: list[str] = []

    def listen(event: str, **_: str | int) -> None:
        if event == _HIT:
            hits.append(event)

    seconds = getattr(jax.config, _MIN_SECONDS)
    jax.config.update(_MIN_SECONDS, math.inf)
    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
        jax.config.update(_MIN_SECONDS, seconds)


def _describe(arguments: tuple[Any, ...]) -> str:
    leaves, structure = jax.tree.flatten(arguments)
    shapes = [jax.typeof(leaf) for leaf in leaves]
    device = _device(arguments)
    versions = [version(package) for package in ("jax", "jaxlib", "flax", "numpy")]
    # Settings as they are here, within any context manager of JAX's.
    settings = sorted(jax.config.values.items()), os.environ.get("XLA_FLAGS")
    return f"{structure} {shapes} {device!r} {versions} {settings} {_SOURCES}"


def _device(arguments: tuple[Any, ...]) -> jax.Device:
    """Returns where the first array lies, such as a model's weights."""
    arrays = (x for x in jax.tree.leaves(arguments) if isinstance(x, jax.Array))
    return next(
        (device for x in arrays for device in x.devices()), jax.local_devices()[0]
    )
