"""Which expert runs at which noise level: boundaries, their derivation, the grid.

A model of n experts has n - 1 boundaries, rising noise levels in (0, 1); one expert
has none. Experts are counted from clean to noisy; expert i owns [boundary i - 1,
boundary i), so that a boundary belongs to the noisier one, as in Wan 2.2.

The paper gives the boundaries and the rule, but not the range of log-SNR that the rule
starts from; `bisect_log_snr` says what can be reconstructed of it.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from linearsr_jax.diffusion.schedule import shift_sigma, sigma_grid, unshift_sigma

# The paper's four experts: detail, texture, refinement, structure.
EXPERT_BOUNDARIES = (0.223, 0.875, 0.939)
# Where the paper splits first, and Wan 2.2 its two experts.
ANCHOR = 0.875


class LogSnr(NamedTuple):
    """Log-SNR of a schedule over its time in [0, 1], 1 being the noisy end.

    Attributes:
      at: time -> log-SNR, natural log of powers; falls.
      time: its inverse.
      range: (clean end, noisy end) of log-SNR; infinite if it has none.
    """

    at: Callable[[float], float]
    time: Callable[[float], float]
    range: tuple[float, float]


def flow_log_snr(shift: float = 1.0) -> LogSnr:
    """Rectified flow: 2 log((1 - t) / t) - 2 log(shift).

    Args:
      shift: t is the level before the shift; with 1 it is sigma itself.
    """
    offset = 2.0 * np.log(shift)
    return LogSnr(
        at=lambda t: 2.0 * (np.log1p(-t) - np.log(t)) - offset,
        time=lambda value: 1.0 / (1.0 + np.exp((value + offset) / 2.0)),
        range=(np.inf, -np.inf),
    )


def scaled_linear_log_snr() -> LogSnr:
    """Stable Diffusion's schedule, log(abar / (1 - abar)) at t = i / 1000.

    The square root of beta rises evenly from that of 0.00085 to that of 0.012 over
    1,000 steps i = 0 .. 999; between them log-SNR is interpolated.
    """
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.cumprod(1.0 - beta)
    values = np.log(signal) - np.log1p(-signal)
    times = np.arange(1000) / 1000
    return LogSnr(
        at=lambda t: float(np.interp(t, times, values)),
        time=lambda value: float(np.interp(-value, -values, times)),
        range=(float(values[0]), float(values[-1])),
    )


def bisect_log_snr(
    schedule: LogSnr,
    anchor: float,
    lambda_range: tuple[float, float] | None,
    n_experts: int,
) -> tuple[float, ...]:
    """The paper's boundaries: split at the anchor, then halve log-SNR on each side.

    The published (0.223, 0.875, 0.939) come from the scaled-linear schedule, although
    training is flow matching. Its upper half, from log-SNR -3.99 at 0.875 to -5.36 at
    its noisy end, is halved at 0.9398: the published 0.939 with the digits cut off. The
    lower half's would be 0.153 for the schedule's own clean end, 7.07; the published
    0.223 means a clean end of 5.85 (t = 0.0024). The paper gives neither its range nor
    a reason for it. So the default is its numbers, `EXPERT_BOUNDARIES`; this function
    is for other schedules, anchors and numbers of experts.

    Args:
      schedule: whose log-SNR is halved; the boundaries are times of it. For flow with
        a shift, `shift_sigma` makes them the noise levels that experts are chosen by.
      anchor: time of the first split.
      lambda_range: (clean end, noisy end) of log-SNR; None is the schedule's own.
      n_experts: 1, 2, 4, 8, ...; two have the anchor alone.

    Raises:
      ValueError: another number of experts, an anchor outside the range, or an
        infinite range (flow's own) where its ends are needed.
    """
    if n_experts < 1 or n_experts & (n_experts - 1):
        raise ValueError(f"n_experts must be 1, 2, 4, 8, ..., got {n_experts}")
    if n_experts == 1:
        return ()
    if not 0.0 < anchor < 1.0:
        raise ValueError(f"anchor must be in (0, 1), got {anchor}")
    middle = schedule.at(anchor)
    clean, noisy = schedule.range if lambda_range is None else lambda_range
    if not clean > middle > noisy:
        raise ValueError(
            f"lambda_range must fall from above the anchor's log-SNR, {middle:.3f}, to "
            f"below it, got ({clean}, {noisy})"
        )
    if n_experts == 2:
        return check_boundaries((anchor,))
    if not np.isfinite([clean, noisy]).all():
        raise ValueError(f"lambda_range must be finite, got ({clean}, {noisy})")
    lower, upper = (
        [float(schedule.time(value)) for value in _inner(*ends, n_experts // 2)]
        for ends in ((clean, middle), (middle, noisy))
    )
    return check_boundaries((*lower, anchor, *upper))


def uniform_boundaries(n_experts: int) -> tuple[float, ...]:
    """Intervals of equal width: what the paper's ablation compares with.

    Raises:
      ValueError: if n_experts < 1.
    """
    if n_experts < 1:
        raise ValueError(f"n_experts must be at least 1, got {n_experts}")
    return tuple(float(b) for b in _inner(0.0, 1.0, n_experts))


def check_boundaries(boundaries: tuple[float, ...]) -> tuple[float, ...]:
    """Returns boundaries that experts can be chosen by, as a tuple of floats.

    Raises:
      ValueError: they do not rise in (0, 1), in float32.
    """
    # Training draws noise levels in float32 and the network is fed them so.
    ends = np.float32([0.0, *boundaries, 1.0])
    if not np.all(np.diff(ends) > 0):
        raise ValueError(
            f"expert boundaries must rise and lie between 0 and 1, got {boundaries}"
        )
    return tuple(float(b) for b in boundaries)


def intervals(boundaries: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """The noise levels [a, b) of each expert, clean to noisy; the last one's has 1."""
    return tuple(itertools.pairwise((0.0, *check_boundaries(boundaries), 1.0)))


def find_expert(sigma, boundaries: tuple[float, ...]):
    """Number of the expert that owns a noise level; a boundary is the noisier one's.

    Compared in float32, so that a level drawn by training finds the expert it was drawn
    for.

    Args:
      sigma: noise levels in [0, 1], array or scalar.
      boundaries: see `check_boundaries`.
    """
    ends = np.float32(boundaries)
    return np.searchsorted(ends, np.float32(sigma), side="right")


class ExpertGrid(NamedTuple):
    """What a sampler walks.

    Attributes:
      sigmas: falling noise levels, the last one 0; float64 of length steps + 1.
      experts: who runs each step; length steps.
    """

    sigmas: np.ndarray
    experts: tuple[int, ...]


def expert_grid(
    steps: int, boundaries: tuple[float, ...], *, shift: float, sigma_max: float
) -> ExpertGrid:
    """`sigma_grid` with the boundaries as knots, so that every expert runs.

    Every expert has one step, and each further step goes to the interval whose steps
    are longest in the unshifted level; within an interval they are even. Knots lie one
    float32 below the boundary: a step that starts there is of the cleaner expert, and
    the level is one that expert was trained on.

    With fewer steps than experts the grid is the plain one, each step being of the
    expert that owns the level it starts from: one step is the noisiest expert's.
    Boundaries that are not below the grid's first level do not count, and the experts
    above them have no step.

    Args:
      steps: network evaluations, at least 1.
      boundaries: see `check_boundaries`; of shifted levels. () gives `sigma_grid`.
      shift, sigma_max: see `schedule.sigma_grid`.

    Raises:
      ValueError: see `check_boundaries` and `schedule.sigma_grid`.
    """
    sigmas = sigma_grid(steps, shift=shift, sigma_max=sigma_max)
    first = np.float32(sigmas[0])
    reached = tuple(b for b in check_boundaries(boundaries) if np.float32(b) < first)
    if steps > len(reached):
        below = np.nextafter(np.float32(reached), np.float32(0.0)).astype(np.float64)
        ends = np.array([0.0, *unshift_sigma(below, shift), sigma_max])
        counts = np.ones(len(ends) - 1, int)
        while counts.sum() < steps:
            counts[np.argmax(np.diff(ends) / counts)] += 1
        parts = [
            np.linspace(high, low, count, endpoint=False)
            for (low, high), count in zip(itertools.pairwise(ends), counts, strict=True)
        ]
        sigmas = shift_sigma(np.concatenate([*parts[::-1], [0.0]]), shift)
    return ExpertGrid(sigmas, tuple(find_expert(sigmas[:-1], reached).tolist()))


def _inner(start: float, end: float, parts: int) -> np.ndarray:
    """The ends between equal parts: halving again and again, at once."""
    return np.linspace(start, end, parts + 1)[1:-1]
