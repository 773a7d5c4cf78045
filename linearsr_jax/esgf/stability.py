"""Detects whether a plateau swings more and more, or is lost.

This is separate from finding the knee: swings and collapse come later and do not move
it.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from linearsr_jax.esgf.params import DEFAULT_PARAMS, KneeParams
from linearsr_jax.esgf.rises import robust_sd, running_median
from linearsr_jax.esgf.tracker import Plateau


@dataclasses.dataclass(frozen=True)
class Oscillation:
    """Size of the newest deviations from the plateau.

    Attributes:
      ratio: their size over the noise before the plateau; 0 while there are too few.
      since: index of the evaluation since which the ratio has been above
        `KneeParams.oscillating`; None if it is not.
    """

    ratio: float
    since: int | None


def measure_oscillation(
    values: Float[np.ndarray, "n"],
    plateau: Plateau,
    params: KneeParams = DEFAULT_PARAMS,
) -> Oscillation:
    """Compares deviations after the knee with the noise before it.

    Args:
      values: values of the evaluations so far; higher is better.
      plateau: declared plateau.
      params: constants of the search.
    """
    window = params.swing_window
    after = values[plateau.knee :]
    if len(after) < window:
        return Oscillation(ratio=0.0, since=None)
    deviations = after - _trend(after, params)
    noise = max(plateau.noise, params.smallest_swing * plateau.rise)
    windows = np.lib.stride_tricks.sliding_window_view(deviations, window)
    ratios = np.array([robust_sd(part) for part in windows]) / noise
    if ratios[-1] < params.oscillating:
        return Oscillation(ratio=float(ratios[-1]), since=None)
    calm = np.flatnonzero(ratios < params.oscillating)
    # It was seen at the end of the window, whose first half may have been calm.
    since = window // 2 + (calm[-1] + 1 if len(calm) else 0)
    return Oscillation(ratio=float(ratios[-1]), since=int(plateau.knee + since))


def find_collapse(
    values: Float[np.ndarray, "n"],
    plateau: Plateau | None,
    params: KneeParams = DEFAULT_PARAMS,
) -> int | None:
    """Finds the index since which the metric has lost its gain; None if it has not.

    Args:
      values: values of the evaluations so far; higher is better.
      plateau: declared plateau, or None; without one the best stretch counts.
      params: constants of the search.
    """
    if len(values) < params.min_evaluations:
        return None
    if plateau:
        level, rise = plateau.level, plateau.rise
    else:
        smooth = running_median(values, 5)
        level = smooth.max()
        rise = level - np.median(values[:3])
        noise = robust_sd(np.diff(values)) / np.sqrt(2)
        if rise < params.clear_rise * noise:
            return None
    return _run_at_end(values < level - params.lost_rise * rise, params.lost_in_a_row)


def find_non_finite(
    is_finite: Bool[np.ndarray, "M n"], params: KneeParams = DEFAULT_PARAMS
) -> int | None:
    """Finds the index since which no metric has been finite; None if one is.

    Args:
      is_finite: whether each metric is finite at each evaluation.
      params: constants of the search.
    """
    is_lost = np.asarray(~is_finite.any(axis=0))
    return _run_at_end(is_lost, params.lost_in_a_row)


def _trend(values, params: KneeParams):
    width = min(params.trend_neighbours, len(values) - 1 + len(values) % 2)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    middle = np.sort(windows, axis=1)[:, params.trend_apart : -params.trend_apart]
    return np.pad(middle.mean(axis=1), width // 2, mode="edge")


def _run_at_end(lost: Bool[np.ndarray, "n"], least: int) -> int | None:
    kept = np.flatnonzero(~lost)
    since = kept[-1] + 1 if len(kept) else 0
    return int(since) if len(lost) - since >= least else None
