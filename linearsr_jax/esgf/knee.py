"""Finds the knee of a run's evaluation curves: the point where they stop improving.

LinearSR (arXiv 2510.08771) fine-tunes from the *knee*, the point of best generalisation
before metrics plateau and oscillate; from a later checkpoint fine-tuning diverges. The
paper picks it by eye. Here it is a pure function of the curves, and it works online:
the answer after n evaluations depends only on these.

1. `rises` finds which rises a metric's curve does not exclude.
2. If all of these have ended, `tracker` declares a plateau. The decision comes some
   evaluations late; the knee is the first evaluation within 5 % of the rise of the
   level. A further rise withdraws it.
3. Metrics vote: there is a knee while more than half of those that have risen at all
   are on a plateau. It is the median of their knees.
4. `stability` tells whether the plateau has begun to swing, or has been lost.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Real

from linearsr_jax.esgf import stability, tracker
from linearsr_jax.esgf.params import DEFAULT_PARAMS, KneeParams
from linearsr_jax.esgf.tracker import State

VERDICTS = ("none", "plateau", "oscillating", "diverged")
# Counts as infinite, so that squares do not overflow.
_HUGE = 1e100


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Evidence of one metric after the last evaluation, in the unit of the metric.

    Attributes:
      vote: "plateau", "rising", or "abstains" if there was no rise beyond the noise.
      evaluations: number of finite evaluations.
      knee_step: step of the metric's own knee; None without a plateau.
      decided_at_step: step of the evaluation after which the plateau was declared.
      level: value of the plateau.
      tolerance: distance from the level within which the plateau begins.
      rise: rise from the start to the level; always positive.
      noise: standard deviation of an evaluation before the plateau.
      gain_left: upper bound of the remaining gain, as a fraction of the rise; None if
        it is unknown or an endless rise is possible. It is that after the newest
        evaluation or, on a plateau, after the deciding one.
      oscillation_ratio: size of the newest deviations from the plateau over the noise.
      oscillating_since_step: step since which the ratio has been large; None if not.
      diverged_since_step: step since which the metric has been below half of its
        rise; None if it has not.
    """

    vote: str
    evaluations: int
    knee_step: int | None = None
    decided_at_step: int | None = None
    level: float | None = None
    tolerance: float | None = None
    rise: float | None = None
    noise: float | None = None
    gain_left: float | None = None
    oscillation_ratio: float | None = None
    oscillating_since_step: int | None = None
    diverged_since_step: int | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement after the last evaluation.

    Attributes:
      verdict: one of VERDICTS. "oscillating" and "diverged" describe the newest
        evaluations; an earlier knee stays.
      knee_step: step to fine-tune from; None without a plateau.
      decided_at_step: step of the evaluation from which on this knee was the answer.
      since_step: step at which the oscillation or divergence began, or None.
      reason: explanation in one sentence.
      metrics: evidence of each metric.
    """

    verdict: str
    knee_step: int | None
    decided_at_step: int | None
    since_step: int | None
    reason: str
    metrics: dict[str, Evidence]


@dataclasses.dataclass(frozen=True)
class _Metric:
    """The finite evaluations of a metric, and the state after each."""

    rows: np.ndarray  # indices of the run's evaluations
    values: np.ndarray  # higher is better
    sign: float
    states: list[State]

    def at(self, row: int) -> State | None:
        """Returns the state after a row, or None before the first evaluation."""
        count = int(np.searchsorted(self.rows, row, side="right"))
        return self.states[count - 1] if count else None


def find_knee(
    steps: Real[np.ndarray, "N"],
    metrics: Mapping[str, Float[np.ndarray, "n"]],
    higher_is_better: Mapping[str, bool],
    params: KneeParams = DEFAULT_PARAMS,
) -> Verdict:
    """Judges the evaluations of a run.

    Args:
      steps: steps of the evaluations, strictly increasing.
      metrics: values of each metric at these steps; values that are not finite count
        as missing.
      higher_is_better: direction of each metric.
      params: constants of the search.

    Raises:
      ValueError: steps do not increase, or a metric has another number of values.
    """
    steps = np.asarray(steps)
    table = {name: np.asarray(values, float) for name, values in metrics.items()}
    _check(steps, table)
    table = {
        name: np.where(np.abs(values) < _HUGE, values, np.nan)
        for name, values in table.items()
    }
    steps, table = _thin(steps, table, params)
    followed = {
        name: _follow(steps, values, 1.0 if higher_is_better[name] else -1.0, params)
        for name, values in table.items()
    }
    knees = [_joint_knee(followed, row) for row in range(len(steps))]
    knee = knees[-1] if knees else None
    decided = None
    if knee is not None:
        changes = [row for row, other in enumerate(knees) if other != knee]
        decided = changes[-1] + 1 if changes else 0
    evidence = {
        name: _evidence(steps, metric, params) for name, metric in followed.items()
    }
    verdict, since = _say(steps, table, knee, evidence, params)
    return Verdict(
        verdict=verdict,
        knee_step=None if knee is None else int(steps[knee]),
        decided_at_step=None if decided is None else int(steps[decided]),
        since_step=since,
        reason=_reason(verdict, knee, evidence, params),
        metrics=evidence,
    )


def _check(steps, table):
    if steps.ndim != 1 or not np.all(np.diff(steps) > 0):
        raise ValueError("steps must rise strictly")
    for name, values in table.items():
        if values.shape != steps.shape:
            raise ValueError(f"{name}: has {values.size} values for {steps.size} steps")


def _thin(steps, table, params):
    """Averages blocks until at most max_evaluations are left; drops the rest."""
    block = 1
    while len(steps) // block > params.max_evaluations:
        block *= 2
    if block == 1:
        return steps, table
    count = len(steps) // block

    def average(values):
        blocks = values[: count * block].reshape(count, block)
        finite = np.isfinite(blocks)
        total = np.where(finite, blocks, 0).sum(axis=1)
        size = finite.sum(axis=1)
        return np.where(size > 0, total / np.maximum(size, 1), np.nan)

    last = steps[block - 1 : count * block : block]
    return last, {name: average(values) for name, values in table.items()}


def _follow(steps, values, sign, params):
    rows = np.flatnonzero(np.isfinite(values))
    oriented = sign * values[rows]
    states = list(tracker.track(steps[rows].astype(float), oriented, params))
    return _Metric(rows=rows, values=oriented, sign=sign, states=states)


def _joint_knee(followed, row) -> int | None:
    """Returns the row of the knee that the metrics vote for after a row."""
    states = [(metric, metric.at(row)) for metric in followed.values()]
    voters = [(metric, state) for metric, state in states if state and state.has_risen]
    knees = sorted(
        int(metric.rows[state.plateau.knee])
        for metric, state in voters
        if state.plateau
    )
    # For an even number take the later middle one, when half have reached their level.
    return knees[len(knees) // 2] if 2 * len(knees) > len(voters) else None


def _evidence(steps, metric: _Metric, params: KneeParams) -> Evidence:
    count = len(metric.rows)
    if count == 0:
        return Evidence(vote="abstains", evaluations=0)

    def step(index: int | None) -> int | None:
        return None if index is None else int(steps[metric.rows[index]])

    state = metric.states[-1]
    plateau = state.plateau
    left = state.gain_left
    found = Evidence(
        vote="plateau" if plateau else "rising" if state.has_risen else "abstains",
        evaluations=count,
        gain_left=left if left is not None and math.isfinite(left) else None,
        diverged_since_step=step(
            stability.find_collapse(metric.values, plateau, params)
        ),
    )
    if plateau is None:
        return found
    oscillation = stability.measure_oscillation(metric.values, plateau, params)
    return dataclasses.replace(
        found,
        knee_step=step(plateau.knee),
        decided_at_step=step(plateau.decided),
        level=metric.sign * plateau.level,
        tolerance=params.tolerance * plateau.rise,
        rise=plateau.rise,
        noise=plateau.noise,
        oscillation_ratio=oscillation.ratio,
        oscillating_since_step=step(oscillation.since),
    )


def _say(steps, table, knee, evidence, params) -> tuple[str, int | None]:
    """Returns the verdict, and the step it began at if it is about the newest ones."""
    if table and len(steps):
        finite = np.array([np.isfinite(values) for values in table.values()])
        lost = stability.find_non_finite(finite, params)
        if lost is not None:
            return "diverged", int(steps[lost])
    voters = [e for e in evidence.values() if e.vote != "abstains"]
    fallen = [
        e.diverged_since_step for e in voters if e.diverged_since_step is not None
    ]
    if 2 * len(fallen) > len(voters):
        return "diverged", min(fallen)
    if knee is None:
        return "none", None
    swinging = [s for e in voters if (s := e.oscillating_since_step) is not None]
    if 2 * len(swinging) >= len(voters):
        return "oscillating", min(swinging)
    return "plateau", None


def _reason(verdict, knee, evidence, params) -> str:
    votes = [e.vote for e in evidence.values()]
    on_plateau, rising = votes.count("plateau"), votes.count("rising")
    most = max((e.evaluations for e in evidence.values()), default=0)
    if verdict == "diverged":
        if all(e.diverged_since_step is None for e in evidence.values()):
            return "no metric of the newest evaluations is finite"
        return "the newest evaluations have lost more than half of the rise"
    if knee is not None:
        swings = ", which swings beyond the noise" if verdict == "oscillating" else ""
        voters = on_plateau + rising
        return f"{on_plateau} of {voters} metrics have reached a plateau{swings}"
    if most < params.min_evaluations:
        ending = "" if most == 1 else "s"
        return f"only {most} evaluation{ending}; {params.min_evaluations} are the least"
    if not on_plateau + rising:
        return "no rise beyond the noise"
    return (
        f"a rise that goes on is not excluded for {rising} of {on_plateau + rising} "
        "metrics"
    )
