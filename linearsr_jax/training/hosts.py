"""Runs on several hosts: how the processes find each other, agree, and end together.

A process that fails ends at once and says why; the others notice when they next need
it, or their `watch` does, and end too. None of them waits for one that is gone, as
JAX's own shutdown would.
"""

import contextlib
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from linearsr_jax.core.array_types import Float
from linearsr_jax.training.record import BadFieldError, TrainError
from linearsr_jax.training.watch import Watch

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Exit code of a process whose others have not come: the same command may find them
# later. BSD's EX_UNAVAILABLE.
NOT_ALL_CAME = 69
# Seconds after which JAX aborts where a process is dead; `watch` comes before.
HEARTBEAT = 60
# Seconds within which all processes must connect. JAX's own limit is a little longer,
# because it aborts with a trace of C++.
_CONNECT, _LONGER = 300, 60
_TEXT_BYTES = 1024
# Seconds in which the slowest process may compile a step.
_PATIENCE = 3600
_PLACES = itertools.count()


class HostArgumentError(TrainError):
    """Arguments about the processes of a run that do not go together."""


@contextlib.contextmanager
def connected(
    coordinator: str | None = None,
    process: int | None = None,
    processes: int | None = None,
) -> Generator[None]:
    """Connects this process with those of the other hosts, if there are any.

    Call it before anything else uses JAX. Without arguments JAX looks for a cluster:
    Cloud TPU, SLURM, Open MPI, Kubernetes. Where there is none, or where the caller has
    already connected or used JAX, nothing changes.

    Args:
      coordinator: HOST:PORT at which process 0 listens.
      process: index of this process.
      processes: number of processes; 1 looks for no cluster.

    Raises:
      HostArgumentError: the arguments do not go together.
      TrainError: a process cannot be reached, or there are others and JAX does not see
        them. Where a process has not come after five minutes, the others end with one
        line and exit code NOT_ALL_CAME.
    """
    given = (coordinator, process, processes)
    if processes == 1 or jax.distributed.is_initialized():
        yield
        return
    if any(x is not None for x in given) and None in given:
        raise HostArgumentError(
            "--coordinator, --process and --processes belong together; give all three, "
            "or none to look for a cluster"
        )
    if process is not None and processes is not None and process >= processes:
        raise HostArgumentError(
            f"--process {process} must be below --processes {processes}; the first is 0"
        )
    if not _initialize(coordinator, process, processes):
        _check_kubernetes(os.environ)
        yield
        return
    index, count = jax.process_index(), jax.process_count()
    logger.info("process %d of %d, %d devices in all", index, count, jax.device_count())
    if index:
        # The first one speaks for all.
        logging.getLogger("linearsr_jax").setLevel(logging.WARNING)
    watch = Watch(multihost.get_jax_distributed_client())
    try:
        # JAX's shutdown would wait five minutes for the others.
        with ending_together():
            yield
    finally:
        watch.end()
        jax.distributed.shutdown()
        watch.join()


def _initialize(
    coordinator: str | None, process: int | None, processes: int | None
) -> bool:
    """Connects; returns False where there is no cluster, or JAX is in use."""
    timer = threading.Timer(_CONNECT, _give_up)
    timer.daemon = True
    timer.start()
    try:
        # Elsewhere than on CPUs it has no effect.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=_CONNECT + _LONGER,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        is_alone = (
            "coordinator_address should be" in text or "called before any JAX" in text
        )
        if coordinator is None and is_alone:
            return False
        hint = "" if coordinator else "; --processes 1 looks for no others"
        raise TrainError(
            f"the processes of the run cannot reach each other: {text}{hint}"
        ) from error
    finally:
        timer.cancel()
    return True


def _give_up() -> None:
    """Ends the process, whose main thread is inside JAX."""
    who, where = "processes", ""
    # JAX says only privately whom it waits for, and may move that in any release.
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import distributed

        found = distributed.global_state
        who, where = f"{found.num_processes} processes", found.coordinator_address
    text = "no coordinator has been found"
    if where is not None:
        text = (
            f"not all {who} have reached the coordinator {where}".rstrip()
            + "; run the same command on each host"
        )
    print(f"linearsr: after {_CONNECT} s {text}", file=sys.stderr, flush=True)
    os._exit(NOT_ALL_CAME)


def _check_kubernetes(environment: Mapping[str, str]) -> None:
    """Refuses a pod that would train alone beside others in the same workdir.

    Kubernetes does not tell a pod how many there are. Index 0 may be the only one; any
    other is not.
    """
    index = environment.get("JOB_COMPLETION_INDEX")
    if index is None or "KUBERNETES_SERVICE_HOST" not in environment:
        return
    text = (
        f"pod {index} of a Kubernetes Job trains alone, since JAX sees no others: "
        'pip install "jax[k8s]", or pass --coordinator, --process and --processes; '
        "with --processes 1 it is meant to"
    )
    if index != "0":
        raise TrainError(text)
    logger.warning("%s", text)


@contextlib.contextmanager
def ending_together() -> Generator[None]:
    """Ends this process at once where the block fails, if there are several.

    Leaving in order would wait for the others, and they wait for this one. Open it
    last, so that it sees a failure before what is around it closes.
    """
    try:
        yield
    # A second Ctrl-C and an exit, too, but not GeneratorExit, which is no failure.
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if jax.process_count() == 1:
            raise
        logger.debug("traceback", exc_info=True)
        text, code = _describe(error)
        if text:
            print(f"linearsr: process {jax.process_index()}: {text}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _describe(error: BaseException) -> tuple[str, int]:
    """Returns (what to say of a failure, exit code)."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return "", error.code or 0
        return str(error.code), 1
    # As `linearsr train` ends on one host: another start would end so, too.
    code = 2 if isinstance(error, BadFieldError | HostArgumentError) else 1
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, jax.errors.JaxRuntimeError):
        text = f"another process has ended, or the devices failed: {text[:300]}"
    return text, code


def wait_for_others(name: str) -> None:
    """Waits until every process is here, however long each has taken.

    The first use of a group of devices does not wait long: with Gloo, 30 s.

    Args:
      name: name of the place, for messages.
    """
    count = jax.process_count()
    if count > 1:
        # JAX does not take a name twice.
        unique, everybody = f"{name}_{next(_PLACES)}", set(range(count))
        multihost.sync_global_processes(unique, timeout=_PATIENCE, processes=everybody)


def is_first() -> bool:
    """Tells whether this process writes what one alone must write."""
    return jax.process_index() == 0


def gather_text(text: str) -> list[str]:
    """Gathers a short text from every process, by its index; call it on all."""
    if jax.process_count() == 1:
        return [text]
    data = text.encode()[:_TEXT_BYTES]
    padded = np.frombuffer(data.ljust(_TEXT_BYTES, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows]


def gather_rows(
    own: Mapping[int, Sequence[float]], count: int
) -> Float[np.ndarray, "N M"]:
    """Gathers rows of numbers that the processes have made; call it on all.

    Args:
      own: rows of this process by their number, at least one. Where several processes
        have a number, the first one's row counts.
      count: number N of rows.

    Returns:
      All rows, in order.
    """
    table = np.zeros((count, 1 + len(next(iter(own.values())))))
    for number, values in own.items():
        table[number] = 1, *values
    if jax.process_count() > 1:
        # As bytes, because JAX would round to float32.
        data = np.asarray(multihost_utils.process_allgather(table.view(np.uint8)))
        tables = np.ascontiguousarray(data).view(np.float64)
        table = tables[tables[..., 0].argmax(axis=0), np.arange(count)]
    return table[:, 1:]


def together(function: Callable[[], T]) -> T:
    """Runs a function on every process, and fails on all where it fails on one.

    Raises:
      TrainError: with the text of the first process that failed. A single process
        raises what it raises.
    """
    if jax.process_count() == 1:
        return function()
    found, text = None, ""
    try:
        found = function()
    except (TrainError, OSError, ValueError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
    for index, failure in enumerate(gather_text(text)):
        if failure:
            raise TrainError(f"process {index}: {failure}")
    return cast(T, found)


def check_equal(texts: dict[str, str]) -> None:
    """Checks that all processes have the same texts.

    Args:
      texts: each text under the name of what it describes, for the error message.

    Raises:
      TrainError: naming what differs, and between whom.
    """
    for name, text in texts.items():
        found = gather_text(text)
        others = [index for index, other in enumerate(found) if other != found[0]]
        if others:
            raise TrainError(
                f"the {name} of process {others[0]} differ from those of process 0: "
                f"{found[others[0]]}, not {found[0]}"
            )
