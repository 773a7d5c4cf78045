"""Shows on disk that a process of a run is alive, and where it hangs if it does."""

import faulthandler
import json
import socket
import time
from pathlib import Path

import jax

from linearsr_jax.core.files import write_text

# Seconds between two writings of the file.
_EVERY = 10.0
# Seconds without a beat after which the stacks of all threads are written.
HANGS_AFTER = 300.0


class Heartbeat:
    """Writes folder/I.json of process I: its host, and the step that it began and when.

    A step that begins within ten seconds of the last writing is not written.

    Without a beat for too long, folder/I.stacks gets the stacks of all threads, once,
    from a thread that needs no lock of Python's. Compiling a large step can take that
    long, too; then the stacks say so.
    """

    def __init__(self, folder: Path, *, hangs_after: float = HANGS_AFTER):
        """Creates the folder; the first beat starts the watch."""
        folder.mkdir(parents=True, exist_ok=True)
        process = jax.process_index()
        self._file = folder / f"{process}.json"
        self._stacks = (folder / f"{process}.stacks").open("w")
        self._hangs_after, self._written = hangs_after, -_EVERY

    def beat(self, step: int) -> None:
        """Records that a step is about to begin."""
        faulthandler.dump_traceback_later(self._hangs_after, file=self._stacks)
        if time.monotonic() - self._written < _EVERY:
            return
        self._written = time.monotonic()
        row = {"host": socket.gethostname(), "step": step, "time": time.time()}
        write_text(self._file, json.dumps(row) + "\n")

    def close(self) -> None:
        """Ends the watch."""
        faulthandler.cancel_dump_traceback_later()
        self._stacks.close()
