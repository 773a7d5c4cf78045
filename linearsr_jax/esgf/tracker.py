"""Follows one metric evaluation by evaluation: rising, or on a plateau since when."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from linearsr_jax.esgf.rises import Family, Fit, fit_rises, robust_sd

# The plateau is what lies within this part of the whole rise below the level.
TOLERANCE = 0.05
# Fewer evaluations than this do not tell a rise from noise.
MIN_EVALUATIONS = 8
# A rise is excluded when its misfit is beyond this (for one parameter, 7 happens by
# chance in 0.8 %). Higher, and more plateaus are never decided.
_EXCLUDED = 7.0
# No rise at all has to be excluded more clearly: hundreds of rises compete with it.
_RISEN = 25.0
# A plateau is seen for at least so many evaluations, the knee among them.
_PATIENCE = 5
# And its beginning is known this well: to so many evaluations (standard deviation over
# the possible rises) and this part of those seen. Looser, and one knee in ten is more
# than three evaluations off; tighter, and noisy curves are never decided.
_SPREAD, _SPREAD_PART = 1.0, 0.05
# It is withdrawn when the newest evaluations, a window of one of these lengths, exceed
# the earlier ones by this many tolerances and this many standard errors; the noise is
# that of the plateau, or of so many evaluations before the window if they swing more.
_WINDOWS = (4, 6, 8, 12, 16, 24)
_WITHDRAW_TOLERANCES, _WITHDRAW_ERRORS = 1.5, 3.0
_RECENT = 12
# The next rise is fitted with so many evaluations of the old plateau before it.
_LEAD = 4


@dataclasses.dataclass(frozen=True)
class Plateau:
    """A plateau that has been declared; its numbers stay as they were then.

    Attributes:
      knee: index of the first evaluation within tolerance of the level.
      decided: index of the evaluation after which it was declared.
      level: that the rise ends at.
      rise: from the curve's start to the level.
      noise: standard deviation of an evaluation up to the knee.
      inflation: see `rises.Fit`.
    """

    knee: int
    decided: int
    level: float
    rise: float
    noise: float
    inflation: float


@dataclasses.dataclass(frozen=True)
class State:
    """What is known of a metric after an evaluation.

    Attributes:
      has_risen: whether there has been a rise beyond the noise.
      plateau: None while it rises, and before.
      gain_left: at most this much gain is left, as a part of the rise: the largest of
        all rises that are not excluded, infinite if one of them never ends; None
        before the first fit.
    """

    has_risen: bool
    plateau: Plateau | None
    gain_left: float | None


def track(
    steps: Float[np.ndarray, "N"], values: Float[np.ndarray, "N"]
) -> Iterator[State]:
    """Yields the state after each evaluation, from that one and earlier ones only.

    Args:
      steps: of the evaluations, strictly rising.
      values: finite, higher is better.
    """
    state = State(has_risen=False, plateau=None, gain_left=None)
    first, family, start = 0, None, None
    withdrawn: Plateau | None = None
    for n in range(1, len(values) + 1):
        if state.plateau:
            window = _rising_window(values[state.plateau.knee : n], state.plateau)
            if window:
                withdrawn = state.plateau
                # Look for the end of this rise; the whole one counts from the start.
                start = withdrawn.level - withdrawn.rise
                first, family = max(withdrawn.knee, n - window - _LEAD), None
                state = State(has_risen=True, plateau=None, gain_left=None)
        elif withdrawn and np.median(values[n - _WINDOWS[0] : n]) <= withdrawn.level:
            # That was a swing, not a rise.
            state = dataclasses.replace(state, plateau=withdrawn)
        if not state.plateau and n - first >= MIN_EVALUATIONS:
            if family is None:
                family = Family(steps[first:] - steps[first])
            state = _judge(fit_rises(family, values[first:n]), first, start)
        yield state


def _judge(fit: Fit, first: int, start: float | None) -> State:
    """Declares a plateau if every rise that is not excluded has ended.

    Args:
      fit: to the evaluations from index first on.
      first: index.
      start: of the curve, None if that is what the fit begins with.
    """
    # [rises]: what each takes for the whole rise.
    whole = fit.gain if start is None else fit.start + fit.gain - start
    whole = np.maximum(whole, np.finfo(float).tiny)
    gain_left = fit.left / whole
    ended = gain_left <= TOLERANCE
    has_risen = fit.flat_misfit >= _RISEN
    possible = fit.misfit < _EXCLUDED
    state = State(
        has_risen=has_risen or start is not None,
        plateau=None,
        gain_left=float(gain_left[possible].max()),
    )
    if not has_risen or not ended[possible].all():
        return state
    # The first evaluation within tolerance, averaged over the possible rises.
    missing = fit.gain[:, None] * (1 - fit.progress)
    knees = np.argmax(missing <= TOLERANCE * whole[:, None], axis=1)
    likelihood = np.where(ended, np.exp(-fit.misfit / 2), 0.0)
    knee = round(float(np.average(knees, weights=likelihood)))
    count = len(fit.residuals)
    spread = np.sqrt(np.average((knees - knee) ** 2, weights=likelihood))
    if count - knee < _PATIENCE or spread > _SPREAD + _SPREAD_PART * count:
        return state
    best, rise = fit.best, float(whole[fit.best])
    return dataclasses.replace(
        state,
        plateau=Plateau(
            knee=first + knee,
            decided=first + count - 1,
            level=float(fit.start[best] + fit.gain[best]),
            rise=rise,
            noise=min(fit.noise, robust_sd(fit.residuals[: max(knee, 6)])),
            inflation=fit.inflation,
        ),
    )


def _rising_window(since_knee, plateau: Plateau) -> int | None:
    """How many of the newest evaluations stand above the plateau; None if none do."""
    for window in _WINDOWS:
        old, new = since_knee[:-window], since_knee[-window:]
        if len(old) < _PATIENCE:
            return None
        middle = np.median(old)
        # Swings that have grown lately are no new rise.
        noise = max(
            plateau.noise, robust_sd(old - middle), robust_sd(old[-_RECENT:] - middle)
        )
        error = noise * np.sqrt(plateau.inflation * (1 / window + 1 / len(old)))
        needed = _WITHDRAW_TOLERANCES * TOLERANCE * plateau.rise
        needed += _WITHDRAW_ERRORS * error
        # Of swings about the plateau many are below it, however large they are.
        if np.median(new) - middle > needed and np.quantile(new, 0.25) > middle:
            return window
    return None
