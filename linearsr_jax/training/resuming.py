"""Finds the newest checkpoint of a run that is whole."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linearsr_jax.training.checkpoints import Checkpointer, DamageError
from linearsr_jax.training.initial_state import StartState
from linearsr_jax.training.record import RunRecord, TrainError, check_same_config
from linearsr_jax.training.step import TrainState

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Resumed:
    """A run as its newest whole checkpoint has it."""

    step: int
    record: RunRecord
    state: TrainState


def find_resumable(
    checkpointer: Checkpointer,
    start_state: StartState,
    config: Mapping[str, Any],
    workdir: Path,
) -> Resumed | None:
    """Reads the newest checkpoint, or the one before if it is damaged, and so on.

    Damaged ones are named in the log and set aside, unless all are.

    Args:
      checkpointer: checkpoints of the run.
      start_state: knows the shapes of the state, and its places.
      config: requested config, in values that JSON can store.
      workdir: folder of the run, for error messages.

    Returns:
      The run; None if there are no checkpoints.

    Raises:
      TrainError: the run has another config or version, all checkpoints are damaged, or
        the hosts see different ones.
    """
    damaged: dict[int, DamageError] = {}
    for step in reversed(checkpointer.wait_for_steps()):
        try:
            record = checkpointer.restore_record(step)
            check_same_config(record, config, workdir)
            state = start_state.restored(checkpointer, step)
        except DamageError as error:
            damaged[step] = error
            continue
        if damaged:
            for error in damaged.values():
                logger.warning("damaged checkpoint: %s", error)
            logger.warning(
                "going back to checkpoint %d; the others are kept as damaged-STEP", step
            )
            checkpointer.set_aside(list(damaged))
        return Resumed(step, record, state)
    if damaged:
        newest = max(damaged)
        raise TrainError(
            f"{damaged[newest]}; no older checkpoint can be read either. Put a copy of "
            "one back, or begin again in another --workdir"
        )
    return None
