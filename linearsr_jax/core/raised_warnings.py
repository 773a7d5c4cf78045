"""Warnings of decoders as errors, in threads that read and write at the same time."""

import contextlib
import threading
import warnings
from collections.abc import Generator

# Filters belong to the process: two threads that change and restore them at the same
# time would leave them changed.
_lock = threading.RLock()


@contextlib.contextmanager
def raising_warnings(*categories: type[Warning]) -> Generator[None]:
    """Raises warnings of these categories inside the with block.

    Other threads wait before they enter it.
    """
    with _lock, warnings.catch_warnings():
        for category in categories:
            warnings.simplefilter("error", category)
        yield
