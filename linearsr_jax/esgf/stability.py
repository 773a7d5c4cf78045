"""Does a plateau swing more and more, or is it lost?

Kept apart from finding the knee: swings and collapse come after it and do not move it.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from linearsr_jax.esgf.rises import robust_sd, running_median
from linearsr_jax.esgf.tracker import MIN_EVALUATIONS, Plateau

# Deviations are taken from the mean of so many neighbours, the highest and the lowest
# of them apart, so that neither drift nor a spike counts (a median would follow swings
# of period two); their size is that over windows of the other length.
_TREND, _APART, _WINDOW = 9, 2, 8
# Oscillating: deviations of this many times the noise. Less, and white noise is often
# taken for swings: robust deviations of eight values vary by a third.
OSCILLATING = 2.5
# Swings smaller than this part of the rise are nobody's concern.
_SMALLEST = 0.01
# Lost: three evaluations in a row below half of the rise (never by noise), or, as
# every metric of a run, not finite.
_LOST_RISE, _LOST_IN_A_ROW = 0.5, 3
# A rise that was never declared a plateau still counts when this many times the noise.
_CLEAR = 8.0


@dataclasses.dataclass(frozen=True)
class Oscillation:
    """How large the newest deviations from the plateau are.

    Attributes:
      ratio: to the noise before the plateau; 0 while there are too few.
      since: index of the evaluation since which it has been above OSCILLATING; None if
        it is not.
    """

    ratio: float
    since: int | None


def measure_oscillation(
    values: Float[np.ndarray, "n"], plateau: Plateau
) -> Oscillation:
    """Compares deviations after the knee with the noise before it.

    Args:
      values: of the evaluations so far, higher is better.
      plateau: the one declared.
    """
    after = values[plateau.knee :]
    if len(after) < _WINDOW:
        return Oscillation(ratio=0.0, since=None)
    deviations = after - _trend(after)
    noise = max(plateau.noise, _SMALLEST * plateau.rise)
    windows = np.lib.stride_tricks.sliding_window_view(deviations, _WINDOW)
    ratios = np.array([robust_sd(window) for window in windows]) / noise
    if ratios[-1] < OSCILLATING:
        return Oscillation(ratio=float(ratios[-1]), since=None)
    calm = np.flatnonzero(ratios < OSCILLATING)
    # The window's end is where it was seen; its first half may have been calm.
    since = _WINDOW // 2 + (calm[-1] + 1 if len(calm) else 0)
    return Oscillation(ratio=float(ratios[-1]), since=int(plateau.knee + since))


def find_collapse(
    values: Float[np.ndarray, "n"], plateau: Plateau | None
) -> int | None:
    """Index since which the metric has lost what it had gained; None if it has not.

    Args:
      values: of the evaluations so far, higher is better.
      plateau: the one declared; None if there is none, then the best stretch counts.
    """
    if len(values) < MIN_EVALUATIONS:
        return None
    if plateau:
        level, rise = plateau.level, plateau.rise
    else:
        smooth = running_median(values, 5)
        level = smooth.max()
        rise = level - np.median(values[:3])
        noise = robust_sd(np.diff(values)) / np.sqrt(2)
        if rise < _CLEAR * noise:
            return None
    return _run_at_end(values < level - _LOST_RISE * rise)


def find_non_finite(is_finite: Bool[np.ndarray, "M n"]) -> int | None:
    """Index since which no metric of a run has been finite; None if any is.

    Args:
      is_finite: of each metric and evaluation.
    """
    return _run_at_end(~is_finite.any(axis=0))


def _trend(values):
    width = min(_TREND, len(values) - 1 + len(values) % 2)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    middle = np.sort(windows, axis=1)[:, _APART:-_APART]
    return np.pad(middle.mean(axis=1), width // 2, mode="edge")


def _run_at_end(lost: Bool[np.ndarray, "n"]) -> int | None:
    kept = np.flatnonzero(~lost)
    since = kept[-1] + 1 if len(kept) else 0
    return int(since) if len(lost) - since >= _LOST_IN_A_ROW else None
