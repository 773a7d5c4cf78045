"""What is compared with `esgf.knee`: the field's rules, on one metric.

Each takes the steps and values (finite, higher is better) of a curve and returns
(knee, decided): the step it chooses and the one after which it did, or None. Prechelt's
rules (1998) are for errors, which are positive; here they are in units of the rise seen
so far, and choose the best evaluation at the time they stop.
"""

import warnings

import numpy as np
from kneed import KneeLocator

Answer = tuple[int, int] | None


def kneed_full(steps, values) -> Answer:
    """Kneedle on the whole curve."""
    return _kneed(steps, values)


def kneed_smoothed(steps, values) -> Answer:
    """Kneedle on means of five neighbours of the whole curve."""
    padded = np.pad(values, 2, mode="edge")
    return _kneed(steps, np.convolve(padded, np.ones(5) / 5, mode="valid"))


def kneed_online(steps, values) -> Answer:
    """Kneedle with online=True: keeps correcting, the last knee counts."""
    return _kneed(steps, values, online=True)


def generalization_loss(steps, values, alpha=0.05) -> Answer:
    """GL: stops when a value is alpha of the rise below the best."""
    for n in range(2, len(values) + 1):
        if _loss(values[:n]) > alpha:
            return _best(steps, values, n)
    return None


def progress_quotient(steps, values, alpha=0.5, strip=5) -> Answer:
    """PQ: stops when the loss is alpha of the progress within a strip, or more."""
    for n in range(strip + 1, len(values) + 1, strip):
        last = values[n - strip : n]
        rise = max(values[:n].max() - values[0], 1e-12)
        progress = (last.max() - last.mean()) / rise
        if _loss(values[:n]) > alpha * progress:
            return _best(steps, values, n)
    return None


def up(steps, values, successive=3, strip=3) -> Answer:
    """UP: stops when the value fell in so many successive strips."""
    ends = values[strip - 1 :: strip]
    falls = 0
    for i in range(1, len(ends)):
        falls = falls + 1 if ends[i] < ends[i - 1] else 0
        if falls == successive:
            return _best(steps, values, strip * (i + 1))
    return None


def best_so_far(steps, values) -> Answer:
    """The best evaluation of the whole curve."""
    return _best(steps, values, len(values))


DETECTORS = {
    "kneed, full curve": kneed_full,
    "kneed, mean of 5": kneed_smoothed,
    "kneed, online=True": kneed_online,
    "Prechelt GL(5 %)": generalization_loss,
    "Prechelt PQ(0.5), strip 5": progress_quotient,
    "Prechelt UP(3), strip 3": up,
    "best so far": best_so_far,
}


def _kneed(steps, values, **options) -> Answer:
    if len(values) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        locator = KneeLocator(
            steps, values, curve="concave", direction="increasing", **options
        )
    return None if locator.knee is None else (int(locator.knee), int(steps[-1]))


def _loss(values) -> float:
    best = values.max()
    return (best - values[-1]) / max(best - values[0], 1e-12)


def _best(steps, values, n) -> Answer:
    return int(steps[np.argmax(values[:n])]), int(steps[n - 1])
