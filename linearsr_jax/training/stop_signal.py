"""Graceful shutdown: preemption notices and Ctrl-C stop training at a checkpoint."""

import signal
import threading


class StopSignal:
    """Records SIGTERM and SIGINT inside a with block instead of ending the process.

    A second signal acts as it would outside, in case the first takes too long.

    A signal that was ignored stays ignored, as SIGINT is in background jobs of a shell.
    Outside the main thread, where Python cannot handle signals, nothing is recorded.

    Attributes:
      requested: whether a signal has arrived.
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
