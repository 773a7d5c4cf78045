"""Follows one metric evaluation by evaluation: rising, or on a plateau since when."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from linearsr_jax.esgf.params import DEFAULT_PARAMS, KneeParams
from linearsr_jax.esgf.rises import Family, Fit, fit_rises, robust_sd


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
    steps: Float[np.ndarray, "N"],
    values: Float[np.ndarray, "N"],
    params: KneeParams = DEFAULT_PARAMS,
) -> Iterator[State]:
    """Yields the state after each evaluation, from that one and earlier ones only.

    Args:
      steps: of the evaluations, strictly rising.
      values: finite, higher is better.
      params: constants of the search.
    """
    shortest_window = params.withdraw_windows[0]
    state = State(has_risen=False, plateau=None, gain_left=None)
    first, family, start = 0, None, None
    withdrawn: Plateau | None = None
    for n in range(1, len(values) + 1):
        if state.plateau:
            window = _rising_window(
                values[state.plateau.knee : n], state.plateau, params
            )
            if window:
                withdrawn = state.plateau
                # Look for the end of this rise; the whole one counts from the start.
                start = withdrawn.level - withdrawn.rise
                first, family = max(withdrawn.knee, n - window - params.lead), None
                state = State(has_risen=True, plateau=None, gain_left=None)
        elif (
            withdrawn and np.median(values[n - shortest_window : n]) <= withdrawn.level
        ):
            # That was a swing, not a rise.
            state = dataclasses.replace(state, plateau=withdrawn)
        if not state.plateau and n - first >= params.min_evaluations:
            if family is None:
                family = Family(steps[first:] - steps[first], params)
            state = _judge(fit_rises(family, values[first:n]), first, start, params)
        yield state


def _judge(fit: Fit, first: int, start: float | None, params: KneeParams) -> State:
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
    ended = gain_left <= params.tolerance
    has_risen = fit.flat_misfit >= params.risen_misfit
    possible = fit.misfit < params.excluded_misfit
    state = State(
        has_risen=has_risen or start is not None,
        plateau=None,
        gain_left=float(gain_left[possible].max()),
    )
    if not has_risen or not ended[possible].all():
        return state
    # The first evaluation within tolerance, averaged over the possible rises.
    missing = fit.gain[:, None] * (1 - fit.progress)
    knees = np.argmax(missing <= params.tolerance * whole[:, None], axis=1)
    likelihood = np.where(ended, np.exp(-fit.misfit / 2), 0.0)
    knee = round(float(np.average(knees, weights=likelihood)))
    count = len(fit.residuals)
    spread = np.sqrt(np.average((knees - knee) ** 2, weights=likelihood))
    most_spread = params.knee_spread + params.knee_spread_part * count
    if count - knee < params.plateau_evaluations or spread > most_spread:
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


def _rising_window(since_knee, plateau: Plateau, params: KneeParams) -> int | None:
    """How many of the newest evaluations stand above the plateau; None if none do."""
    for window in params.withdraw_windows:
        old, new = since_knee[:-window], since_knee[-window:]
        if len(old) < params.plateau_evaluations:
            return None
        middle = np.median(old)
        # Swings that have grown lately are no new rise.
        recent = old[-params.withdraw_recent :]
        noise = max(plateau.noise, robust_sd(old - middle), robust_sd(recent - middle))
        error = noise * np.sqrt(plateau.inflation * (1 / window + 1 / len(old)))
        needed = params.withdraw_tolerances * params.tolerance * plateau.rise
        needed += params.withdraw_errors * error
        # Of swings about the plateau many are below it, however large they are.
        if np.median(new) - middle > needed and np.quantile(new, 0.25) > middle:
            return window
    return None
