"""Watches the other processes of a run, and ends this one when one of them is gone.

JAX does so, too, after its own heartbeat, and then aborts with a trace of C++. This
comes before, with one line. Collectives of accelerators wait for the dead in vain, so
nothing but another thread can notice.
"""

import os
import sys
import threading
import time
from typing import Any

import jax

# Seconds between two signs of life, and without one until a process counts as dead.
_EVERY, SILENCE = 3.0, 20.0
_FOLDER = "linearsr_alive"
# A key that nobody sets, and longer than any run.
_NEVER, _FOREVER_MS = "linearsr_never", 10**10


class Watch:
    """Shows the others that this process lives, and looks for them, in threads."""

    def __init__(self, client: Any):
        """Starts the thread.

        Args:
          client: client of JAX's coordination service.
        """
        self._client = client
        self._is_ending, self._is_over = threading.Event(), threading.Event()
        self._index, self._count = jax.process_index(), jax.process_count()
        tasks = [self._run]
        if self._index:
            # The service is in process 0.
            tasks.append(self._wait_for_service)
        self._threads = [
            threading.Thread(target=task, name="watch", daemon=True) for task in tasks
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Looks no longer; the others may leave. The signs of life go on."""
        self._is_ending.set()

    def join(self) -> None:
        """Ends the threads. Call it after JAX's shutdown, when nobody needs the signs.

        A thread that returns from JAX's client while Python closes aborts the process.
        """
        self._is_over.set()
        for thread in self._threads:
            thread.join(SILENCE)

    def _wait_for_service(self) -> None:
        """Leaves as soon as the connection to the service breaks.

        JAX aborts then within a third of a second, too soon for the signs of life.
        """
        try:
            self._client.blocking_key_value_get(_NEVER, _FOREVER_MS)
        except Exception:
            self._leave(0)

    def _run(self) -> None:
        seen: dict[int, tuple[str, float]] = {}
        number = 0
        while not self._is_over.wait(_EVERY if number else 0):
            number += 1
            try:
                name = f"{_FOLDER}/{self._index}"
                self._client.key_value_set(name, str(number), allow_overwrite=True)
                rows = self._client.key_value_dir_get(_FOLDER)
            except Exception:
                self._leave(0)
                return
            now = time.monotonic()
            values = {int(key.rpartition("/")[2]): value for key, value in rows}
            for index in range(self._count):
                value = values.get(index, "")
                before, since = seen.setdefault(index, (value, now))
                if value != before:
                    seen[index] = value, now
                elif now - since > SILENCE and index != self._index:
                    self._leave(index)

    def _leave(self, index: int) -> None:
        if self._is_ending.is_set():
            return
        text = f"process {index} has ended, or cannot be reached"
        print(f"linearsr: process {self._index}: {text}", file=sys.stderr, flush=True)
        os._exit(1)
