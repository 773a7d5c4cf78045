"""Compiled programs that a later start finds without tracing them again.

JAX finds its own kept programs by what tracing yields, and tracing takes about a
quarter of the time of a small image. Here a program is found by what it is traced from:
this package's files, versions, the device, settings and the shapes of the inputs. It
lies in the folder of `compilation_cache`. Where the user chose another one nothing is
kept here: who changes this package as it runs, as tests do, needs a trace each time.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

import kernels_pallas
import linearsr_jax
from linearsr_jax.core.files import written_whole
from linearsr_jax.core.version import __version__
from linearsr_jax.inference.compilation_cache import own_folder

# Programs that are kept, the newest: a folder of photographs may have a size each.
_MOST = 64
# JAX's name of the event.
_HIT = "/jax/compilation_cache/cache_hits"

_logger = logging.getLogger(__name__)


def kept(function: Callable[..., Any], described: str) -> Callable[..., Any]:
    """Makes a jitted function keep its programs where JAX keeps its own.

    Args:
      function: result of jax.jit for one device, called with positional arguments.
      described: all that decides what it computes, but for the code of this package
        and the shapes and types of its arguments.

    Returns:
      The same function; or `function` itself without `enable_compilation_cache`.
    """
    folder = own_folder()
    # jax adds its options to the class at run time, where no checker sees them.
    if jax.config.jax_compilation_cache_dir != str(folder):  # ty: ignore[missing-attribute]
        return function
    programs: dict[str, Callable[..., Any]] = {}

    def call(*arguments):
        text = f"{described} {_shapes(arguments)} {sorted(jax.config.values.items())}"
        if text not in programs:
            device = _device(arguments)
            full = _surroundings(device) + text
            name = hashlib.sha256(full.encode()).hexdigest()
            path = Path(folder, f"linearsr-{name}.program")
            if program := _load(path, device):
                try:
                    result = program(*arguments)
                    programs[text] = program
                    return result
                except Exception as error:  # It may have been read and yet not run.
                    _logger.debug("%s: does not run: %s", path, error)
            programs[text] = _compile(function, arguments, path)
        return programs[text](*arguments)

    return call


def _load(path: Path, device: jax.Device) -> Callable[..., Any] | None:
    try:
        # The user's own folder: JAX runs what it finds there, too.
        return serialize_executable.deserialize_and_load(
            *pickle.loads(zlib.decompress(path.read_bytes())),
            execution_devices=[device],
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # A damaged file fails in many ways; it is made again.
        _logger.debug("%s: cannot be used: %s", path, error)
        return None


def _compile(function, arguments, path: Path) -> Callable[..., Any]:
    with _counting_hits() as hits:
        compiled = function.lower(*arguments).compile()
    if hits:
        # Written again, what JAX read from its own folder lacks functions on CPUs.
        return compiled
    try:
        data = pickle.dumps(serialize_executable.serialize(compiled))
        with written_whole(path) as temporary:
            temporary.write_bytes(zlib.compress(data, level=1))
        _remove_oldest(path.parent)
    except Exception as error:  # A full disk, or a device whose programs stay there.
        _logger.debug("%s: cannot be kept: %s", path, error)
    return compiled


def _remove_oldest(folder: Path) -> None:
    programs = sorted(folder.glob("*.program"), key=lambda path: path.stat().st_mtime)
    for path in programs[:-_MOST]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _counting_hits() -> Generator[list[str]]:
    """Yields a list of the programs that JAX finds in its own folder meanwhile."""
    hits: list[str] = []

    def listen(event: str, **_: str | int) -> None:
        if event == _HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


def _shapes(arguments: tuple[Any, ...]) -> str:
    leaves, structure = jax.tree.flatten(arguments)
    return f"{structure} {[jax.typeof(leaf) for leaf in leaves]}"


def _device(arguments: tuple[Any, ...]) -> jax.Device:
    """Returns where the first array lies, such as a model's weights."""
    arrays = (x for x in jax.tree.leaves(arguments) if isinstance(x, jax.Array))
    return next(
        (device for x in arrays for device in x.devices()), jax.local_devices()[0]
    )


@functools.cache
def _surroundings(device: jax.Device) -> str:
    """Describes the code, the versions and the device."""
    files = []
    for package in (linearsr_jax, kernels_pallas):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            status = path.stat()
            files.append((str(path), status.st_size, status.st_mtime_ns))
    versions = (__version__, jax.__version__, jax.lib.__version__)
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    platform = (device.client.platform_version, repr(device))
    return f"{files} {versions} {platform} {flags}"
