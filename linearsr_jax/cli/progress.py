"""Progress of long work on standard error."""

import logging
import sys
import time
from collections.abc import Callable, Iterable

_logger = logging.getLogger(__name__)

# Seconds between lines where there is no terminal for a bar.
_INTERVAL = 30


def progress(unit: str) -> Callable[[Iterable], Iterable]:
    """Returns a wrapper of lists that reports how many of their items are done.

    It draws a bar on a terminal and logs a line every half minute elsewhere.

    Args:
      unit: the items, in the plural.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        return lambda items: tqdm(items, unit=unit, leave=False)

    def log_progress(items):
        last = time.monotonic()
        for done, item in enumerate(items):
            if time.monotonic() - last >= _INTERVAL:
                last = time.monotonic()
                _logger.info("linearsr: %d of %d %s done", done, len(items), unit)
            yield item

    return log_progress


class PartsBar:
    """A bar, or lines, for one image that takes long: an `OnPart` of the upscaler."""

    def __init__(self):
        self._bar = None
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Shows that so many parts of all are done; the bar ends with the last."""
        if not sys.stderr.isatty():
            if time.monotonic() - self._last >= _INTERVAL:
                self._last = time.monotonic()
                _logger.info("linearsr: %d %% of this image done", 100 * done // total)
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="band", leave=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
            self._bar = None
