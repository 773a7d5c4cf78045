"""ESGF while a run trains: evaluates it, keeps candidates, and looks for the knee.

Each validation scores the averaged and the raw weights and keeps the averaged ones as a
candidate. `esgf.knee` judges all validations so far; a knee that has stood for some of
them may end the run, whose result are then the weights of that candidate.

Differs from the paper: it picks the knee by eye, from one metric.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import Array, PyTree, UInt8
from linearsr_jax.esgf import curve_files, report
from linearsr_jax.esgf.knee import Verdict, find_knee
from linearsr_jax.metrics import get_metrics
from linearsr_jax.training import expert_axis, sharpness
from linearsr_jax.training import optimizers as optim
from linearsr_jax.training.checkpoints import Candidates
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.setup import RunParts
from linearsr_jax.training.step import TrainState
from linearsr_jax.training.validation import Validator

logger = logging.getLogger(__name__)

# Photographs that sharpness is averaged over.
_SHARPNESS_SAMPLES = 4


def judge(
    evaluations: Sequence[dict[str, float]], metrics: Iterable[str] = ("psnr",)
) -> Verdict:
    """The verdict on a run's evaluations; see `esgf.knee.find_knee`.

    Args:
      evaluations: of the run so far.
      metrics: val.metrics, which say what is better where a score's name does not, as
        those of pyiqa. A score of neither has no vote.
    """
    sides: dict[bool, list[str]] = {True: [], False: []}
    scores = {name for row in evaluations for name in row}
    for metric in get_metrics(metrics):
        prefix = f"val_{metric.name}_"
        sides[metric.higher_is_better] += [s for s in scores if s.startswith(prefix)]
    curve = curve_files.curve_of(evaluations, lower=sides[False], higher=sides[True])
    return find_knee(curve.steps, curve.metrics, curve.higher_is_better)


def choose_knee(
    config: ConfigDict,
    evaluations: Sequence[dict[str, float]],
    verdict: Verdict,
    *,
    is_over: bool,
) -> int | None:
    """The step whose weights are the run's result; None while that is open.

    A function of the record alone, so a resumed run chooses the same.

    Args:
      config: see `default_config`; esgf.knee_step goes before any verdict.
      evaluations: of the run so far.
      verdict: on them.
      is_over: the run has no further steps: what stands is taken without patience.
    """
    esgf = config.esgf
    if esgf.knee_step:
        reached = evaluations and evaluations[-1]["step"] >= esgf.knee_step
        return esgf.knee_step if reached else None
    if not esgf.stop_at_knee or verdict.knee_step is None:
        return None
    stood = sum(row["step"] > verdict.decided_at_step for row in evaluations)
    # What follows a knee is lost already: nobody waits for more of it.
    is_over |= verdict.verdict == "diverged" or stood >= esgf.patience
    return verdict.knee_step if is_over else None


class Monitor:
    """Evaluates a run and follows its curves."""

    def __init__(
        self,
        parts: RunParts,
        config: ConfigDict,
        workdir: Path,
        validator: Validator,
        candidates: Candidates,
        codec: Codec,
    ):
        """Does nothing yet.

        Args:
          parts: what is trained.
          config: see `default_config`.
          workdir: gets knee.json after every evaluation.
          validator: on fixed photographs.
          candidates: gets the averaged weights.
          codec: of the run.
        """
        self._config, self._path = config, workdir / "knee.json"
        self._validator, self._candidates, self._codec = validator, candidates, codec
        self._batch_sharpness = sharpness.make_batch_sharpness(
            parts.twice_differentiable_loss
        )

    def evaluate(
        self, step: int, state: TrainState, evaluations: list[dict[str, Any]]
    ) -> tuple[dict[str, float], dict[str, UInt8[Array, "N H W 3"]], Verdict]:
        """Scores the state, appends to the evaluations, and judges them.

        Returns:
          (scores, images, verdict): scores and images are for the log, see `Validator`;
          scores of the raw weights end in _raw. Sharpness is the raw weights' too, and
          is not in the evaluations.
        """
        averaged = optim.ema_params(state.opt_state)
        scores, images = self._validator(expert_axis.split(averaged))
        raw, _ = self._validator(expert_axis.split(state.params))
        scores |= {f"{name}_raw": score for name, score in raw.items()}
        evaluations.append({"step": step, **scores})
        verdict = judge(evaluations, self._config.val.metrics)
        self._candidates.save(step, averaged, knee_step=verdict.knee_step)
        if jax.process_index() == 0:
            text = json.dumps(report.to_json(verdict), indent=2)
            self._path.write_text(text + "\n")
        logger.info("step %d: %s: %s", step, verdict.verdict, verdict.reason)
        every = self._config.esgf.sharpness_every
        if every and len(evaluations) % every == 0:
            scores = scores | self._measure_sharpness(state.params)
        return scores, images, verdict

    def _measure_sharpness(self, params: PyTree) -> dict[str, float]:
        measured = {}
        experts = expert_axis.split(params)
        for expert, own in enumerate(experts):
            samples = [
                self._validator.sample(number, expert)
                for number in range(min(_SHARPNESS_SAMPLES, len(self._validator)))
            ]
            name = f"sharpness_{expert}" if len(experts) > 1 else "sharpness"
            measured[name] = self._batch_sharpness(own, self._codec, samples)
        return measured

    def restore(self, step: int, state: TrainState) -> tuple[int, PyTree]:
        """The candidate of a knee, or the kept one nearest to it, and its own step.

        Raises:
          TrainError: none is kept, or not that of the step chosen by hand, which is
            nobody's to replace.
        """
        kept = self._candidates.steps
        if not kept:
            raise TrainError(
                f"{self._path.parent / 'candidates'}: is empty, the weights of step "
                f"{step} are gone; with esgf.stop_at_knee=False the run goes on to its "
                "last step"
            )
        if step == self._config.esgf.knee_step and step not in kept:
            raise TrainError(
                f"esgf.knee_step {step}: no weights of that step are kept; there are "
                f"those of {', '.join(map(str, kept))}"
            )
        nearest = min(kept, key=lambda other: abs(other - step))
        if nearest != step:
            logger.warning(
                "the weights of step %d are not kept any more; taking those of %d. "
                "Raise esgf.candidates",
                *(step, nearest),
            )
        params = optim.ema_params(state.opt_state)
        return nearest, self._candidates.restore(nearest, params)

    def rewind(self, step: int) -> None:
        """Forgets candidates after a step."""
        self._candidates.delete_after(step)
