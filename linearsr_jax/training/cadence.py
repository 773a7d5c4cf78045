"""Decides what is due after a step: the log, a checkpoint, a validation."""

import dataclasses

from linearsr_jax.training.settings import RunSettings


@dataclasses.dataclass(frozen=True)
class Due:
    """The tasks that are due after a step."""

    log: bool
    checkpoint: bool
    validation: bool

    def __bool__(self) -> bool:
        return self.log or self.checkpoint or self.validation


def find_due(
    settings: RunSettings, step: int, *, is_stopping: bool, has_validation: bool
) -> Due:
    """Finds the tasks that are due after a step.

    Args:
      settings: intervals of logs, checkpoints and validations.
      step: number of the step just taken, from 1.
      is_stopping: whether a signal ends the run after this step.
      has_validation: whether there are photographs to validate on.
    """
    is_end = step == settings.steps
    return Due(
        log=step % settings.log_every == 0 or is_end or is_stopping,
        checkpoint=step % settings.checkpoint_every == 0 or is_end or is_stopping,
        validation=has_validation
        and (
            step % settings.val.every == 0 or is_end or step == settings.esgf.knee_step
        ),
    )
