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


class Watch:
    """A thread that shows the others that this process lives, and looks for them."""

    def __init__(self, client: Any):
        """Starts the thread.

        Args:
          client: client of JAX's coordination service.
        """
        self._client = client
        self._is_ending, self._is_over = threading.Event(), threading.Event()
        self._index, self._count = jax.process_index(), jax.process_count()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Looks no longer; the others may leave. The signs of life go on."""
        self._is_ending.set()

    def join(self) -> None:
        """Ends the thread. Call it after JAX's shutdown, when nobody needs the signs.

        A thread that returns from JAX's client while Python closes aborts the process.
        """
        self._is_over.set()
        self._thread.join(SILENCE)

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
                # The service is in process 0.
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
