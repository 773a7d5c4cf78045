"""Finds the rises that the evaluations so far do not exclude.

A metric's curve is compared with a fixed family of rises  start + gain * progress(t),
where t is the time since the first evaluation. These end at progress 1:

    1 - exp(-(t / tau) ** k)     from steep-then-slow (k < 1) to S-shaped (k > 1)
    1 - (1 + t / tau) ** -p      a power law, with its long tail
    1 / (1 + exp(m - t / tau))   S-shaped with the tail of an exponential (less its
                                 value at 0, and scaled to end at 1)
    min(t / end, 1)              a straight line up to a kink

and these never end: log(1 + t / tau), and a line that continues after its kink at a
fraction of its pace. Start and gain of each are fitted by weighted least squares. A
rise is excluded if it fits much worse than the best one, in units of the noise. The
endless rises keep the answer honest: there is a plateau only if "it still rises,
slowly" does not explain the evaluations.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from linearsr_jax.esgf.params import DEFAULT_PARAMS, KneeParams

# Median absolute deviation to standard deviation, for a normal distribution.
_MAD_TO_SD = 1.4826


class Family:
    """The progress of every rise at the times of a curve's evaluations."""

    def __init__(
        self, time: Float[np.ndarray, "N"], params: KneeParams = DEFAULT_PARAMS
    ):
        """Tabulates the progress.

        Args:
          time: times of at least 3 evaluations, increasing from 0.
          params: constants of the family, and of `fit_rises` on it.
        """
        shortest, ratio = params.tau_shortest * time[1], params.tau_ratio
        count = np.log(params.tau_longest * time[-1] / shortest) / np.log(ratio)
        taus = shortest * ratio ** np.arange(np.ceil(count) + 1)
        ratio = time / taus[:, None]
        # A kink is sharp, so put one at each evaluation.
        kinks = time[2:]
        along = time / kinks[:, None]
        line, beyond = np.minimum(along, 1), np.maximum(along - 1, 0)
        # Each comes with the times from which on it can be told from the others.
        curved = taus / params.tau_longest
        ends = [
            *((-np.expm1(-(ratio**k)), curved) for k in params.exponents),
            *((1 - (1 + ratio) ** -p, curved) for p in params.powers),
            *((_logistic(ratio, middle), curved) for middle in params.middles),
            (line, kinks),
        ]
        endless = [
            (np.log1p(ratio), curved),
            *((line + pace * beyond, kinks) for pace in params.slower_paces),
        ]
        self.params = params
        self.time = time
        self.progress = np.concatenate([table for table, _ in ends + endless])
        self.squared = self.progress**2
        self.ends = np.arange(len(self.progress)) < sum(len(t) for t, _ in ends)
        self._known_from = np.concatenate([times for _, times in ends + endless])

    def known(self, n: int) -> Bool[np.ndarray, "R"]:
        """Returns a mask of the rises that matter after n evaluations."""
        return self._known_from <= self.time[n - 1]


@dataclasses.dataclass(frozen=True)
class Fit:
    """The rises of a family fitted to the first n evaluations of a curve.

    Attributes:
      misfit: misfit of each rise against the best one; exp(-misfit / 2) is the ratio
        of their likelihoods under Gaussian noise of unknown variance.
      flat_misfit: misfit of no rise at all.
      best: index of the rise that fits best.
      start: value at progress 0.
      gain: gain from progress 0 to 1; never negative.
      progress: progress at the n evaluations.
      left: gain left after the newest evaluation; infinite for endless rises.
      noise: standard deviation of the quieter evaluations.
      inflation: number of evaluations that are worth one independent evaluation.
      residuals: residuals of the best rise.
    """

    misfit: Float[np.ndarray, "R"]
    flat_misfit: float
    best: int
    start: Float[np.ndarray, "R"]
    gain: Float[np.ndarray, "R"]
    progress: Float[np.ndarray, "R n"]
    left: Float[np.ndarray, "R"]
    noise: float
    inflation: float
    residuals: Float[np.ndarray, "n"]


def fit_rises(family: Family, values: Float[np.ndarray, "n"]) -> Fit:
    """Fits the rises known so far.

    Args:
      family: rises at the curve's evaluations; those after the first n do not matter.
      values: at least 5 finite values; higher is better.
    """
    n, params = len(values), family.params
    known = family.known(n)
    progress, squared = family.progress[known, :n], family.squared[known, :n]

    def fit(values, weights):
        squares, start, gain = _least_squares(progress, squared, values, weights)
        best = int(np.argmin(squares))
        return squares, start, gain, best, start[best] + gain[best] * progress[best]

    # Fit running medians first, which no spike survives, to find the weights.
    *_, curve = fit(_smooth(values), np.ones(n))
    least_noise = params.coarseness * (curve[-1] - curve[0])
    weights = _weigh(values - curve, least_noise, params)
    squares, start, gain, best, curve = fit(values, weights)
    squares_best = squares[best]

    residuals = values - curve
    count = np.count_nonzero(weights)
    inflation = _inflation(residuals * np.sqrt(weights), count, params)
    least_noise = params.coarseness * (curve[-1] - curve[0])
    least_squares = count * least_noise**2 + np.finfo(float).tiny
    flat = weights @ (values - np.average(values, weights=weights)) ** 2

    def misfit(squares):
        ratio = (squares + least_squares) / (squares_best + least_squares)
        return count / inflation * np.log(ratio)

    return Fit(
        misfit=misfit(squares),
        flat_misfit=float(misfit(flat)),
        best=best,
        start=start,
        gain=gain,
        progress=progress,
        left=np.where(family.ends[known], gain * (1 - progress[:, -1]), np.inf),
        noise=float(np.sqrt((squares_best + least_squares) / max(count - 4, 1))),
        inflation=inflation,
        residuals=residuals,
    )


def running_median(values: Float[np.ndarray, "N"], width: int):
    """Computes medians of an odd number of neighbours, repeated at the ends."""
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    return np.pad(np.median(windows, axis=1), width // 2, mode="edge")


def _smooth(values):
    """Computes medians of three, with Tukey's rule at the ends for a steep start."""
    smooth = running_median(values, 3)
    for end, one, two in ((0, 1, 2), (-1, -2, -3)):
        straight_on = 3 * smooth[one] - 2 * smooth[two]
        smooth[end] = np.median([values[end], smooth[one], straight_on])
    return smooth


def robust_sd(deviations: Float[np.ndarray, "N"]) -> float:
    """Estimates the standard deviation about 0 by the median, which ignores spikes."""
    return float(_MAD_TO_SD * np.median(np.abs(deviations)))


def _logistic(ratio, middle):
    low = 1 / (1 + np.exp(middle))
    # Beyond 50 the value is 1 in floating point, and exp would overflow later.
    value = 1 / (1 + np.exp(middle - np.minimum(ratio, 50)))
    return (value - low) / (1 - low)


def _weigh(residuals, least_noise, params):
    """Weighs evaluations: 1 where quiet, less where noisier, 0 for spikes."""
    size = np.abs(residuals)
    neighbours = params.local_neighbours
    width = min(neighbours, len(size) - 1 + len(size) % 2)
    local = _MAD_TO_SD * running_median(size, width) + least_noise
    local += np.finfo(float).tiny
    # Only what is clearly noisier counts less, since the local estimate is noisy too.
    quiet = np.quantile(local, 0.25 if len(size) > 2 * neighbours else 0.5)
    is_spike = size > params.spike * local
    is_spike[0] = False  # the start is far from the rest in every steep rise
    return np.where(is_spike, 0.0, np.minimum(quiet / local, 1) ** 2)


def _least_squares(progress, squared, values, weights):
    total = weights.sum()
    mean = weights @ values / total
    centre = progress @ weights / total
    spread = squared @ weights - total * centre**2
    slope = progress @ (weights * (values - mean))
    gain = np.maximum(slope / np.maximum(spread, 1e-9), 0)
    squares = weights @ (values - mean) ** 2 - gain * slope
    return np.maximum(squares, 0), mean - gain * centre, gain


def _inflation(residuals, count, params):
    """Computes the long-run variance over the variance by Bartlett's weights; >= 1."""
    power = residuals @ residuals
    lags = min(params.correlated_lags, count // 4)
    if power == 0 or lags == 0:
        return 1.0
    total = 1.0
    for lag in range(1, lags + 1):
        correlation = residuals[lag:] @ residuals[:-lag] / power
        # Residuals of a fit with about four parameters are less correlated than noise.
        total += 2 * (1 - lag / (lags + 1)) * (correlation + 2 / count)
    return float(np.clip(total, 1, params.most_inflation))
