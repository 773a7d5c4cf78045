"""Derives expert boundaries from a noise schedule: the paper's bisection of log-SNR.

The published boundaries come from Stable Diffusion's schedule although training is flow
matching, and the paper gives neither the schedule nor the range. The bisection is
therefore a function of both, for other schedules, anchors and numbers of experts; the
default remains the published numbers, `experts.EXPERT_BOUNDARIES`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from linearsr_jax.diffusion.experts import check_boundaries

# The paper's first split, and the only one of Wan 2.2's two experts.
ANCHOR = 0.875


@dataclasses.dataclass(frozen=True)
class LogSnr:
    """Log-SNR of a schedule over its time in [0, 1], where 1 is the noisy end.

    Attributes:
      at: function from time to log-SNR (natural logarithm of the ratio of powers);
        decreasing.
      time: inverse of `at`.
      clean, noisy: log-SNR at both ends; infinite if the schedule has no bound.
    """

    at: Callable[[float], float]
    time: Callable[[float], float]
    clean: float
    noisy: float


def flow_log_snr(shift: float = 1.0) -> LogSnr:
    """Returns the schedule of rectified flow, 2 log((1 - t) / t) - 2 log(shift).

    Args:
      shift: SANA's shift; t is the level before it, which with 1 is sigma itself.
    """
    offset = 2.0 * np.log(shift)
    return LogSnr(
        at=lambda t: float(2.0 * (np.log1p(-t) - np.log(t)) - offset),
        time=lambda value: float(1.0 / (1.0 + np.exp((value + offset) / 2.0))),
        clean=np.inf,
        noisy=-np.inf,
    )


def scaled_linear_log_snr() -> LogSnr:
    """Returns Stable Diffusion's schedule, log(abar / (1 - abar)) at t = i / 1000.

    The square root of beta rises evenly from that of 0.00085 to that of 0.012 over
    1,000 steps. Between steps log-SNR is interpolated.
    """
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.cumprod(1.0 - beta)
    values = np.log(signal) - np.log1p(-signal)
    times = np.arange(1000) / 1000
    return LogSnr(
        at=lambda t: float(np.interp(t, times, values)),
        time=lambda value: float(np.interp(-value, -values, times)),
        clean=float(values[0]),
        noisy=float(values[-1]),
    )


def bisect_log_snr(
    schedule: LogSnr,
    n_experts: int,
    *,
    anchor: float = ANCHOR,
    clean: float | None = None,
    noisy: float | None = None,
) -> tuple[float, ...]:
    """Splits time at the anchor, and log-SNR evenly on each side of it.

    With Stable Diffusion's schedule and four experts the upper boundary is 0.9398, of
    which the paper prints 0.939. Its lower one, 0.223, follows for a clean end at 5.85;
    with the schedule's own clean end, 7.07, the result is 0.153.

    Args:
      schedule: schedule whose log-SNR is split. For rectified flow with a shift,
        `schedule.shift_sigma` turns the result into noise levels.
      n_experts: 1 or an even number; half of the experts lie on each side.
      anchor: time of the first split.
      clean, noisy: ends of the range of log-SNR; None means the schedule's own.

    Returns:
      n_experts - 1 boundaries, increasing, in the schedule's time.

    Raises:
      ValueError: another number of experts, an anchor outside the range, or an end at
        infinity although more than two experts need it.
    """
    if n_experts < 1 or (n_experts > 1 and n_experts % 2):
        raise ValueError(f"n_experts must be 1 or even, got {n_experts}")
    if n_experts == 1:
        return ()
    if not 0.0 < anchor < 1.0:
        raise ValueError(f"anchor must be in (0, 1), got {anchor}")
    clean = schedule.clean if clean is None else clean
    noisy = schedule.noisy if noisy is None else noisy
    middle = schedule.at(anchor)
    if not clean > middle > noisy:
        raise ValueError(
            f"the range of log-SNR, {clean:.3f} to {noisy:.3f}, must contain the "
            f"anchor's, {middle:.3f}"
        )
    if n_experts == 2:
        return (anchor,)
    if not np.isfinite([clean, noisy]).all():
        raise ValueError(
            "the schedule's log-SNR has no bounds: give clean and noisy, both finite"
        )
    half = n_experts // 2 + 1
    lower = np.linspace(clean, middle, half)[1:-1]
    upper = np.linspace(middle, noisy, half)[1:-1]
    return check_boundaries(
        (*map(schedule.time, lower), anchor, *map(schedule.time, upper))
    )
