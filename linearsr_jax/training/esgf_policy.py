"""Applies ESGF while a run trains: validates, keeps candidates, and finds the knee.

Each validation scores the averaged and the raw weights, and keeps the averaged ones as
a candidate. `esgf.knee` judges all validations so far by the metrics that the config
names, on averaged weights; other scores are only logged. A knee that has stood for some
validations may end the run, whose result is then the candidate of that knee.

Differs from the paper, which picks the knee by eye from one metric.
"""

import dataclasses
import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import PyTree, UInt8
from linearsr_jax.esgf.curve_files import curve_of
from linearsr_jax.esgf.evaluation import Validation
from linearsr_jax.esgf.knee import Verdict, find_knee
from linearsr_jax.esgf.report import to_json
from linearsr_jax.training.checkpoints import Candidates, DamageError
from linearsr_jax.training.expert_axis import split
from linearsr_jax.training.hosts import is_first
from linearsr_jax.training.optimizers import ema_params
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.settings import EsgfSettings
from linearsr_jax.training.sharpness import make_batch_sharpness
from linearsr_jax.training.step import TrainState
from linearsr_jax.training.validation import Validator

logger = logging.getLogger(__name__)

# Number of photographs that sharpness is averaged over.
_SHARPNESS_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Selection:
    """Choice of the weights that a run exports.

    Attributes:
      step: step of the weights; beside the knee if the knee's own are not kept.
      trained_to: last step of the run.
      by: "knee", "hand" (config.esgf.knee_step) or "last step".
      knee_step: knee that was chosen; None for the last step.
      verdict: verdict on all validations; None without validation.
    """

    step: int
    trained_to: int
    by: Literal["knee", "hand", "last step"] = "last step"
    knee_step: int | None = None
    verdict: Verdict | None = None

    def to_json(self) -> dict[str, Any]:
        """Converts to what the model's config and stages.json store."""
        values: dict[str, Any] = {
            "step": self.step,
            "trained_to": self.trained_to,
            "by": self.by,
        }
        if self.knee_step is not None:
            values["knee_step"] = self.knee_step
        if self.verdict is not None:
            names = ("verdict", "knee_step", "decided_at_step", "reason")
            values["found"] = {name: getattr(self.verdict, name) for name in names}
        return values


@dataclasses.dataclass(frozen=True)
class Findings:
    """Results of a validation.

    Attributes:
      validation: scores of the averaged and the raw weights.
      verdict: verdict on this and all earlier validations.
      sharpness: batch sharpness of the raw weights by its name in the log; empty if it
        was not due.
      images: pictures for the log, see `Validator`.
    """

    validation: Validation
    verdict: Verdict
    sharpness: dict[str, float]
    images: dict[str, UInt8[np.ndarray, "N H W 3"]]


def judge(validations: Sequence[Validation], metrics: Collection[str]) -> Verdict:
    """Judges the validations of a run; see `esgf.knee.find_knee`.

    Args:
      validations: validations of the run so far.
      metrics: names of the metrics that vote.
    """
    curve = curve_of(validations, metrics)
    return find_knee(curve.steps, curve.metrics, curve.higher_is_better)


def choose_knee(
    settings: EsgfSettings,
    validations: Sequence[Validation],
    verdict: Verdict,
    *,
    is_over: bool,
) -> int | None:
    """Chooses the step whose weights are the result of the run; None while it is open.

    The choice is a function of the record alone, so a resumed run makes the same one.

    Args:
      settings: settings of the run; its knee_step has priority over the verdict.
      validations: validations of the run so far.
      verdict: verdict on them.
      is_over: whether the run has no further steps; if so, patience does not matter.
    """
    if settings.knee_step:
        reached = validations and validations[-1].step >= settings.knee_step
        return settings.knee_step if reached else None
    if not settings.stop_at_knee or verdict.decided_at_step is None:
        return None
    stood = sum(v.step > verdict.decided_at_step for v in validations)
    # After a divergence there is nothing left to wait for.
    is_over |= verdict.verdict == "diverged" or stood >= settings.patience
    return verdict.knee_step if is_over else None


class Monitor:
    """Validates a run and follows its curves."""

    def __init__(
        self,
        parts: RunParts,
        *,
        workdir: Path,
        validator: Validator,
        candidates: Candidates,
        codec: Codec,
    ):
        """Prepares the monitor; nothing is computed yet.

        Args:
          parts: parts of the run.
          workdir: folder to write knee.json to after every validation.
          validator: scores weights on fixed photographs.
          candidates: store of the averaged weights.
          codec: codec of the run.
        """
        self._settings, self._path = parts.settings, workdir / "knee.json"
        self._validator, self._candidates, self._codec = validator, candidates, codec
        self._batch_sharpness = make_batch_sharpness(parts.twice_differentiable_loss)

    def validate(
        self, step: int, state: TrainState, earlier: Sequence[Validation]
    ) -> Findings:
        """Scores the state, keeps its averaged weights, and judges the run.

        Args:
          step: step of the state.
          state: state of all experts.
          earlier: validations before this one.
        """
        averaged = ema_params(state.opt_state)
        evaluations, images = self._validator(split(averaged), "averaged")
        raw, _ = self._validator(split(state.params), "raw")
        validation = Validation(step, (*evaluations, *raw))
        validations = (*earlier, validation)
        verdict = judge(validations, self._settings.val.metrics)
        self._candidates.save(step, averaged, knee_step=verdict.knee_step)
        if is_first():
            self._path.write_text(json.dumps(to_json(verdict), indent=2) + "\n")
        logger.info("step %d: %s: %s", step, verdict.verdict, verdict.reason)
        every = self._settings.esgf.sharpness_every
        sharpness = {}
        if every and len(validations) % every == 0:
            sharpness = self._measure_sharpness(state.params)
        return Findings(validation, verdict, sharpness, images)

    def _measure_sharpness(self, params: PyTree) -> dict[str, float]:
        measured = {}
        experts = split(params)
        for expert, own in enumerate(experts):
            samples = [
                self._validator.sample(number, expert)
                for number in range(min(_SHARPNESS_SAMPLES, len(self._validator)))
            ]
            name = f"sharpness_{expert}" if len(experts) > 1 else "sharpness"
            measured[name] = self._batch_sharpness(own, self._codec, samples)
        return measured

    def restore(self, step: int, state: TrainState) -> tuple[int, PyTree]:
        """Reads the candidate of a knee, or else the nearest one that is kept.

        Args:
          step: step of the knee.
          state: state of all experts, for the placement of the weights.

        Returns:
          (step of the candidate, its averaged weights).

        Raises:
          TrainError: there are no candidates, or none of the step chosen by hand,
            which another must not replace.
        """
        kept = self._candidates.steps
        if not kept:
            raise TrainError(
                f"{self._path.parent / 'candidates'}: is empty, the weights of step "
                f"{step} are gone; with esgf.stop_at_knee=False the run continues to "
                "its last step"
            )
        if step == self._settings.esgf.knee_step and step not in kept:
            raise TrainError(
                f"esgf.knee_step {step}: no weights of that step are kept; choose one "
                f"of {', '.join(map(str, kept))}"
            )
        if step not in kept:
            logger.warning(
                "the weights of step %d are no longer kept. Raise esgf.candidates to "
                "keep more",
                step,
            )
        params = ema_params(state.opt_state)
        by_distance = sorted(kept, key=lambda other: abs(other - step))
        if step == self._settings.esgf.knee_step:
            by_distance = [step]
        while True:
            nearest = by_distance.pop(0)
            try:
                found = self._candidates.restore(nearest, params)
                break
            except DamageError as error:
                if not by_distance:
                    raise
                logger.warning("damaged weights: %s", error)
        if nearest != step:
            logger.warning("taking the weights of step %d", nearest)
        return nearest, found

    def rewind(self, step: int) -> None:
        """Deletes candidates after a step."""
        self._candidates.delete_after(step)
