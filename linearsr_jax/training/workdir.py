"""Opens the folder of a run: one run at a time, and none that has lost its state."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path

from linearsr_jax.esgf.run_log import LOG
from linearsr_jax.training.hosts import gather_text, is_first, together
from linearsr_jax.training.record import TrainError

CHECKPOINTS = "checkpoints"
_LOCK = ".lock"
# A network file system may show a new file late.
_LOOKS, _SECONDS_BETWEEN_LOOKS = 10, 1.0


@contextlib.contextmanager
def entered(workdir: Path) -> Generator[None]:
    """Opens the folder of a run for all its processes.

    Raises:
      TrainError: see `locked` and `check_not_lost`; or the hosts do not share the
        folder.
    """
    with contextlib.ExitStack() as stack:

        def enter():
            if is_first():
                stack.enter_context(locked(workdir))
                check_not_lost(workdir)

        together(enter)
        together(lambda: _check_shared(workdir))
        yield


def _check_shared(workdir: Path) -> None:
    lock = workdir / _LOCK
    owners: list[str] = []
    for _ in range(_LOOKS):
        owners = gather_text(lock.read_text() if lock.exists() else "")
        if len(set(owners)) == 1:
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if others := [index for index, owner in enumerate(owners) if owner != owners[0]]:
        raise TrainError(
            f"{workdir}: process {others[0]} does not see what process 0 writes there; "
            "the hosts must share the --workdir"
        )


@contextlib.contextmanager
def locked(workdir: Path) -> Generator[None]:
    """Creates a folder if needed, and keeps other runs out of it.

    The system drops the lock when the process ends, however it ends. Some network file
    systems have no locks; there nothing is kept out.

    Raises:
      TrainError: another run is in the folder.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / _LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise TrainError(
                f"{workdir}: is in use by {owner}; wait for that run to end, or use "
                "another --workdir"
            ) from None
        except OSError:
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        os.fsync(file.fileno())  # other hosts read it, over NFS perhaps
        yield


def check_not_lost(workdir: Path) -> None:
    """Checks that a folder with the log of a run still has its checkpoints.

    Without them a run would silently begin again and cut off the log.

    Raises:
      TrainError: there is a log, and no folder of checkpoints.
    """
    log = workdir / LOG
    if (workdir / CHECKPOINTS).is_dir() or not log.exists():
        return
    if steps := [step for step in map(step_of, log.read_bytes().splitlines()) if step]:
        raise TrainError(
            f"{workdir}: has the log of {max(steps)} steps, and no {CHECKPOINTS}/; put "
            f"them back, or delete {LOG} to begin again"
        )


def step_of(line: bytes) -> int | None:
    """Reads the step of a line of the log; None if the line is damaged."""
    try:
        row = json.loads(line)
    except ValueError:  # Bad UTF-8 is one, too.
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None
