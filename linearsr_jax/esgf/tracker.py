"""Follows one metric, evaluation by evaluation: rising, or on a plateau."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Real

from linearsr_jax.esgf.params import DEFAULT_PARAMS, KneeParams
from linearsr_jax.esgf.rises import Family, Fit, fit_rises, robust_sd


@dataclasses.dataclass(frozen=True)
class Plateau:
    """A declared plateau; its numbers stay as they were at the decision.

    Attributes:
      knee: index of the first evaluation within tolerance of the level.
      decided: index of the evaluation after which the plateau was declared.
      level: value that the rise ends at.
      rise: rise from the start of the curve to the level.
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
    """State of a metric after an evaluation.

    Attributes:
      has_risen: whether there has been a rise beyond the noise.
      plateau: declared plateau; None before, and while the metric rises.
      gain_left: upper bound of the remaining gain, as a fraction of the rise, over all
        rises that are not excluded; infinite if one of them is endless; None before
        the first fit.
    """

    has_risen: bool
    plateau: Plateau | None
    gain_left: float | None


def track(
    steps: Real[np.ndarray, "N"],
    values: Float[np.ndarray, "N"],
    params: KneeParams = DEFAULT_PARAMS,
) -> Iterator[State]:
    """Yields the state after each evaluation, from that one and earlier ones only.

    Args:
      steps: steps of the evaluations, strictly increasing.
      values: finite values; higher is better.
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
                # Look for the end of this rise; the whole rise counts from the start.
                start = withdrawn.level - withdrawn.rise
                first, family = max(withdrawn.knee, n - window - params.lead), None
                state = State(has_risen=True, plateau=None, gain_left=None)
        elif (
            withdrawn and np.median(values[n - shortest_window : n]) <= withdrawn.level
        ):
            # It was a swing, not a rise.
            state = dataclasses.replace(state, plateau=withdrawn)
        if not state.plateau and n - first >= params.min_evaluations:
            if family is None:
                family = Family(steps[first:] - steps[first], params)
            state = _judge(fit_rises(family, values[first:n]), first, start, params)
        yield state


def _judge(fit: Fit, first: int, start: float | None, params: KneeParams) -> State:
    """Declares a plateau if every rise that is not excluded has ended.

    Args:
      fit: fit of the evaluations from index first on.
      first: index of the first evaluation in the fit.
      start: value at the start of the curve; None if the fit begins there.
    """
    # [rises]: the whole rise according to each.
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
    """Counts the newest evaluations above the plateau; None if there are none."""
    for window in params.withdraw_windows:
        old, new = since_knee[:-window], since_knee[-window:]
        if len(old) < params.plateau_evaluations:
            return None
        middle = np.median(old)
        # Swings that have grown lately are not a new rise.
        recent = old[-params.withdraw_recent :]
        noise = max(plateau.noise, robust_sd(old - middle), robust_sd(recent - middle))
        error = noise * np.sqrt(plateau.inflation * (1 / window + 1 / len(old)))
        needed = params.withdraw_tolerances * params.tolerance * plateau.rise
        needed += params.withdraw_errors * error
        # In swings about the plateau many evaluations lie below it.
        if np.median(new) - middle > needed and np.quantile(new, 0.25) > middle:
            return window
    return None
