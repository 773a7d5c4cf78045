"""Watches the other processes of a run, and ends this one when one of them is gone.

JAX does so, too, after its own heartbeat, and then aborts with a trace of C++. This
comes before, with one line. Collectives of accelerators wait for the dead in vain, so
nothing but another thread can notice. Where process 0 dies, which has the service that
JAX and this thread ask, JAX aborts at once; that, too, ends with the line. Where it is
frozen a question has no end, so a second thread looks whether the first gets answers.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

import jax

# Seconds between two signs of life, and without one until a process counts as dead.
_EVERY, SILENCE = 3.0, 20.0
# Seconds until the first sign: a host may take long to start its devices. If it dies
# meanwhile, JAX's own heartbeat notices.
_FIRST = 300.0
_FOLDER = "linearsr_alive"


class Watch:
    """Threads that show the others that this process lives, and look for them."""

    def __init__(self, client: Any):
        """Starts the threads.

        Args:
          client: client of JAX's coordination service.
        """
        self._client = client
        self._is_ending, self._is_over = threading.Event(), threading.Event()
        self._index, self._count = jax.process_index(), jax.process_count()
        # Ticks without an answer of the service. A clock would go on while a terminal
        # has stopped this process.
        self._unanswered = 0
        self._threads = [threading.Thread(target=self._run, name="watch", daemon=True)]
        if self._index:
            self._threads.append(threading.Thread(target=self._tick, daemon=True))
        for thread in self._threads:
            thread.start()
        # A handler of Python's own would wait for the main thread, and so run never.
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._say_aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._on_abort)

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
        signal.signal(signal.SIGABRT, signal.SIG_DFL)

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
                self._leave("process 0 has ended, or cannot be reached")
                return
            self._unanswered = 0
            now = time.monotonic()
            values = {int(key.rpartition("/")[2]): value for key, value in rows}
            for index in range(self._count):
                value = values.get(index, "")
                before, since = seen.setdefault(index, (value, now))
                if value != before:
                    seen[index] = value, now
                elif now - since > (SILENCE if value else _FIRST):
                    self._leave(f"process {index} has ended, or cannot be reached")

    def _tick(self) -> None:
        while not self._is_over.wait(1.0):
            self._unanswered += 1
            if self._unanswered > SILENCE:
                self._leave("process 0 is frozen, or cannot be reached")

    def _say_aborted(self, _: int) -> None:
        self._exit(
            "aborted, probably because another process has ended; see JAX's error"
        )

    def _leave(self, text: str) -> None:
        if not self._is_ending.is_set():
            self._exit(text)

    def _exit(self, text: str) -> None:
        print(f"linearsr: process {self._index}: {text}", file=sys.stderr, flush=True)
        os._exit(1)
