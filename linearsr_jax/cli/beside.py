"""Runs work beside the main thread, which stays free for signals.

Python runs the handler of a signal in the main thread, between two of its steps. A
program of JAX is one step and may take minutes, so nobody would hear the Ctrl-C.
"""

import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal to end now, while the work still runs.

    Attributes:
      signal: the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None


def run_beside(work: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yields in this thread, the main one, what an iterable yields in another.

    Args:
      work: makes the iterable, also in the other thread.

    Raises:
      Stopped: SIGINT, SIGTERM or SIGHUP came, which are ignored from then on. The other
        thread still runs: end the process by `os._exit`.
      Exception: what the work raised.
    """
    # Its `put` may be called by a handler that interrupts another call of it.
    events: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        error = None
        try:
            for value in work():
                events.put(value)
        except BaseException as raised:
            error = raised
        events.put(_Ended(error))

    previous = {
        number: signal.signal(number, lambda number, frame: events.put(Stopped(number)))
        for number in _SIGNALS
        # Under nohup the work goes on when the terminal is closed.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            event = events.get()
            if isinstance(event, Stopped):
                previous = dict.fromkeys(_SIGNALS, signal.SIG_IGN)
                raise event
            if isinstance(event, _Ended):
                if event.error is not None:
                    raise event.error
                return
            yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
