"""Graceful shutdown: preemption notices and Ctrl-C stop training at a checkpoint."""

import signal
import threading


class StopSignal:
    """Notes SIGTERM and SIGINT instead of dying, inside a with block.

    A second signal acts as it would have outside: the first may not be heard in time.

    A signal that was ignored stays ignored, as SIGINT is in a shell's background.
    Outside the main thread, where Python cannot handle signals, it never fires.

    Attributes:
      requested: whether a signal has come.
    """

    requested = False

    def __enter__(self):
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, _):
        self.requested = True
        signal.signal(number, self._previous[number])

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
