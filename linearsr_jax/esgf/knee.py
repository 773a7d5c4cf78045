"""Finds the knee of a run's evaluation curves: where they stopped getting better.

LinearSR (arXiv 2510.08771) fine-tunes from the *knee*, the point of best generalisation
before metrics plateau and oscillate; from a later checkpoint fine-tuning diverges. The
paper picks it by eye. Here it is a pure function of the curves, and online: what it
says after n evaluations depends on these alone.

1. `rises`: which rises does a metric's curve not exclude?
2. `tracker`: if all of these have ended, the metric is on a plateau. The decision comes
   some evaluations late; the knee is the first evaluation within 5 % of the rise of
   the level. A further rise withdraws it.
3. Metrics vote: there is a knee while more than half of those that have risen at all
   are on a plateau. It is the median of theirs.
4. `stability`: has the plateau begun to swing, or is it lost?
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from linearsr_jax.esgf import stability, tracker
from linearsr_jax.esgf.params import DEFAULT_PARAMS, KneeParams
from linearsr_jax.esgf.tracker import State

VERDICTS = ("none", "plateau", "oscillating", "diverged")
# As good as infinite: squares must not overflow.
_HUGE = 1e100


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one metric says after the last evaluation, in its own units.

    Attributes:
      vote: "plateau", "rising", or "abstains": no rise beyond the noise was seen.
      evaluations: finite ones.
      knee_step: its own knee, None without a plateau.
      decided_at_step: the evaluation after which that plateau was declared.
      level: of the plateau.
      tolerance: the plateau begins this close to the level.
      rise: from the start to the level; always positive.
      noise: standard deviation of an evaluation before the plateau.
      gain_left: the gain left is at most this part of the rise; None if unknown or if
        a rise without end is possible. Of the newest evaluation, or, on a plateau, of
        the one that decided.
      oscillation_ratio: newest deviations from the plateau over the noise.
      oscillating_since_step: None while the ratio is small.
      diverged_since_step: the metric has been below half of its rise since then.
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
    """What the curves say after the last evaluation.

    Attributes:
      verdict: one of VERDICTS. "oscillating" and "diverged" are said of the newest
        evaluations; the knee before them stays.
      knee_step: the step to fine-tune from; None if no plateau stands.
      decided_at_step: the first evaluation from which on that knee was the answer.
      since_step: when the oscillation or the divergence began; None otherwise.
      reason: one sentence.
      metrics: the evidence of each.
    """

    verdict: str
    knee_step: int | None
    decided_at_step: int | None
    since_step: int | None
    reason: str
    metrics: dict[str, Evidence]


@dataclasses.dataclass(frozen=True)
class _Metric:
    """A metric's finite evaluations and the states after them."""

    rows: np.ndarray  # of the run's evaluations
    values: np.ndarray  # higher is better
    sign: float
    states: list[State]

    def at(self, row: int) -> State | None:
        """The state after a row; None before the metric's first evaluation."""
        count = int(np.searchsorted(self.rows, row, side="right"))
        return self.states[count - 1] if count else None


def find_knee(
    steps: Float[np.ndarray, "N"],
    metrics: Mapping[str, Float[np.ndarray, "N"]],
    higher_is_better: Mapping[str, bool],
    params: KneeParams = DEFAULT_PARAMS,
) -> Verdict:
    """Judges the evaluations of a run.

    Args:
      steps: of the evaluations, strictly rising.
      metrics: each with a value per step; what is not finite counts as missing.
      higher_is_better: for each metric.
      params: constants of the search.

    Raises:
      ValueError: steps do not rise, or a metric has another number of values.
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
    """The knee after a row, as a row: the vote of the metrics."""
    states = [(metric, metric.at(row)) for metric in followed.values()]
    voters = [(metric, state) for metric, state in states if state and state.has_risen]
    knees = sorted(
        int(metric.rows[state.plateau.knee])
        for metric, state in voters
        if state.plateau
    )
    # Of an even number the later middle one: by then half have reached their level.
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
    """The verdict, and since when if it is of the newest evaluations."""
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
