"""Shows on disk that a process of a run is alive, and where it hangs if it does."""

import contextlib
import datetime
import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

# Seconds between two writings of the file.
_EVERY = 10.0
# Seconds without a beat after which the stacks of all threads are written.
HANGS_AFTER = 300.0
# Seconds between two looks at whether the process hangs.
_TICK = 1.0
# Seconds for the last stacks, which go to a file system that may hang itself.
_PATIENCE = 10.0


class Heartbeat:
    """Writes folder/I.json of process I: its host, and the step that it began and when.

    The file is at most ten seconds late. A thread of its own writes it, and a write
    that fails ends nothing.

    Without a beat for too long, from the start on, folder/I.stacks gets the stacks of
    all threads, once, from a thread that needs no lock of Python's. Compiling a large
    step can take that long, too; then the stacks say so. After `exits_after` the
    process writes them again and ends, with one line and exit code 1, so that whatever
    started it can start it again.
    """

    def __init__(
        self, folder: Path, *, exits_after: float, hangs_after: float = HANGS_AFTER
    ):
        """Creates the folder; the first beat starts what `exits_after` limits.

        Args:
          folder: folder of the files of all processes.
          exits_after: seconds without a beat, outside `paused`, after which the process
            ends; 0 for never.
          hangs_after: seconds without a beat after which the stacks are written.

        Raises:
          OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._process, self._host = jax.process_index(), socket.gethostname()
        self._file = folder / f"{self._process}.json"
        # Appended to, since a restart must not erase why the run before it hung.
        self._stacks = (folder / f"{self._process}.stacks").open("a")
        self._note(f"process {os.getpid()} on {self._host} begins")
        self._hangs_after, self._exits_after = hangs_after, exits_after
        faulthandler.dump_traceback_later(hangs_after, file=self._stacks)
        self._step, self._began = 0, 0.0
        self._quiet, self._is_paused = 0.0, True
        self._has_beaten, self._is_over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._write_rows, daemon=True)]
        if exits_after:
            self._threads.append(threading.Thread(target=self._watch, daemon=True))
        for thread in self._threads:
            thread.start()

    def beat(self, step: int) -> None:
        """Records that a step is about to begin."""
        faulthandler.dump_traceback_later(self._hangs_after, file=self._stacks)
        self._quiet, self._is_paused = 0.0, False
        self._step, self._began = step, time.time()
        self._has_beaten.set()

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Lets the with block take as long as it wants; it is no step."""
        self._is_paused = True
        try:
            yield
        finally:
            self._quiet, self._is_paused = 0.0, False

    def close(self) -> None:
        """Ends the watch."""
        faulthandler.cancel_dump_traceback_later()
        self._is_over.set()
        self._has_beaten.set()
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._stacks.close()

    def _write_rows(self) -> None:
        has_warned = False
        while not self._is_over.is_set():
            self._has_beaten.wait()
            self._has_beaten.clear()
            row = {"host": self._host, "step": self._step, "time": self._began}
            temporary = self._file.with_suffix(".tmp")
            try:
                temporary.write_text(json.dumps(row) + "\n")
                temporary.replace(self._file)
            except OSError as error:
                if not has_warned:
                    logger.warning("%s: %s; training goes on", self._file, error)
                has_warned = True
            self._is_over.wait(_EVERY)

    def _watch(self) -> None:
        while not self._is_over.wait(_TICK):
            # A clock would go on while a terminal has stopped the process.
            self._quiet = 0.0 if self._is_paused else self._quiet + _TICK
            if self._quiet >= self._exits_after:
                self._exit()
                return

    def _exit(self) -> None:
        text = f"no step has begun for {self._exits_after / 60:g} minutes"
        print(
            f"linearsr: process {self._process}: {text} (hang_exit_minutes); "
            f"{self._stacks.name} says where it hangs",
            file=sys.stderr,
            flush=True,
        )

        def write():
            self._note(text)
            faulthandler.dump_traceback(self._stacks)

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(_PATIENCE)
        os._exit(1)

    def _note(self, text: str) -> None:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._stacks.write(f"{now} {text}\n")
        self._stacks.flush()
