"""Starts the processes that make batches, so that they live as long as their parent.

They ignore the signals that stop a run, which a terminal or a scheduler sends to all
processes of a group: the parent still needs batches to end in order. And they end by
themselves when the parent is gone, however it went.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from multiprocessing import resource_tracker

import grain

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WorkerIterator:
    """Iterates over a dataset whose elements are made by worker processes."""

    def __init__(self, dataset: grain.IterDataset, *, num_workers: int, buffer: int):
        """Prepares the workers; the first element starts them.

        Args:
          dataset: what the workers share out among themselves.
          num_workers: number of processes.
          buffer: elements that each makes ahead.
        """
        options = grain.MultiprocessingOptions(
            num_workers=num_workers, per_worker_buffer_size=buffer
        )
        self._iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_init))
        self._is_started = False

    def __iter__(self):
        return self

    def __next__(self):
        if self._is_started:
            return next(self._iterator)
        self._is_started = True
        with _stop_signals_blocked():
            return next(self._iterator)

    def close(self) -> None:
        """Ends the workers."""
        self._iterator.close()


@contextlib.contextmanager
def _stop_signals_blocked() -> Generator[None]:
    """Blocks the stop signals in this thread and in processes that it starts.

    They stay blocked in those, from their first moment; here they arrive afterwards.
    """
    # It would unblock them when it starts for the first worker.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init(*_) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # Workers are started by multiprocessing.
    parent.join()
    os._exit(1)
