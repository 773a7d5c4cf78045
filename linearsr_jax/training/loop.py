"""The training loop: what a run does after each step, in order.

    restore or initialise -> [batch -> step -> log -> checkpoint -> validate] ...

Checkpoints and validations come after the step they are named by. Checkpoint n has the
state after n steps; a run that resumes there does the validation n, if that is due and
was not done before it was saved, and reads batch n next (batches count from 0). A run
that diverges returns to a checkpoint and reads the samples in another order from there.
"""

import contextlib
import dataclasses
import logging
from pathlib import Path

import jax
from ml_collections import ConfigDict

from linearsr_jax.training.cadence import find_due
from linearsr_jax.training.esgf_policy import Selection
from linearsr_jax.training.hosts import ending_together
from linearsr_jax.training.settings import RunSettings
from linearsr_jax.training.setup import make_parts
from linearsr_jax.training.step import TrainState
from linearsr_jax.training.stop_signal import StopSignal
from linearsr_jax.training.trainer import Trainer, open_trainer
from linearsr_jax.training.validation import ValidationStopped
from linearsr_jax.training.workdir import entered

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Outcome of `train_and_evaluate`.

    Attributes:
      state: state of all experts after the last step.
      selection: choice of the weights in workdir/model; None if a signal came before
        it was written.
    """

    state: TrainState
    selection: Selection | None

    @property
    def is_finished(self) -> bool:
        """Whether workdir/model was written."""
        return self.selection is not None


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> TrainResult:
    """Trains to config.steps or the knee, from the newest checkpoint if there is one.

    SIGTERM (a preemption notice) and SIGINT end the run after the current step, or in
    the middle of a validation, with a checkpoint. On several hosts, call it on each
    after `hosts.connected`; a failure then ends the process.

    Args:
      config: see `default_config`.
      workdir: folder for checkpoints/, candidates/, metrics.jsonl, images/,
        tensorboard/, config.json, knee.json and, at the end, model/: the averaged
        weights of the last step or of the knee as a model folder.

    Raises:
      BadFieldError: a field has a bad value.
      TrainError: the workdir is in use, contains a run with another config, or a log
        without checkpoints; or the run has diverged more than config.esgf.max_rewinds
        times.
      OSError, ValueError: the photographs cannot be used; see
        `data.sources.open_source`.
    """
    workdir = Path(workdir)
    # Refuse bad fields before making the workdir.
    parts = make_parts(config)
    # What the stack holds closes later than `ending_together`: see there.
    with contextlib.ExitStack() as stack, ending_together():
        stack.enter_context(jax.set_mesh(parts.mesh))
        stack.enter_context(entered(workdir))
        stop = stack.enter_context(StopSignal())
        trainer = stack.enter_context(open_trainer(parts, workdir, stop.has_come))
        if not _train(trainer, parts.settings, stop):
            return TrainResult(trainer.state, selection=None)
        selection = trainer.export()
    return TrainResult(trainer.state, selection)


def _train(trainer: Trainer, settings: RunSettings, stop: StopSignal) -> bool:
    """Trains to the end or to a signal; returns whether it was the end."""
    while True:
        is_stopping, due, trouble = False, None, None
        if trainer.owes_validation:
            # Of the step just taken, or of the checkpoint that the run goes on from.
            try:
                trouble = trainer.validate()
            except ValidationStopped:
                is_stopping = True
        elif trainer.is_over:
            return True
        else:
            trainer.take_step()
            # Ask once; a signal that comes later in this step ends the next one.
            is_stopping = stop.is_agreed(trainer.step)
            due = find_due(
                settings,
                trainer.step,
                is_stopping=is_stopping,
                has_validation=trainer.has_validation,
            )
            # Values are fetched only here, so most steps do not wait for theirs.
            trouble = trainer.find_trouble() if due else None
            if due.log and not trouble:
                trainer.write_log()
        if trouble and not is_stopping:
            trainer.rewind(trouble)
            # A signal that has come meanwhile ends the run after the next step, whose
            # checkpoint is the first that knows of the rewind.
            stop.forget_steps()
            continue
        is_done = trainer.is_over and not trainer.owes_validation
        # Before the validation of the same step, which may take longer than the grace
        # after a signal. The last checkpoint comes after it, so that a finished run has
        # all its validations; a process that is killed in the last one loses the steps
        # since the checkpoint before.
        is_saving = due is not None and due.checkpoint and not trainer.is_over
        if (is_saving or is_stopping or is_done) and not trouble:
            trainer.save()
        if is_stopping and (trouble or not is_done):
            # A run in trouble meets it again, and rewinds then.
            reason = f", after {trouble.reason}" if trouble else ""
            logger.info(
                "stopped at step %d%s; run the same command to continue",
                *(trainer.step, reason),
            )
            return False
