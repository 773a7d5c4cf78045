"""Training checkpoints: one Orbax composite per step.

`state` is the TrainState (parameters, optimiser, EMA, step), `run` is JSON: config,
codec, versions, data seed, the manifest of usable files, the evaluation curve.
The position in the data is not stored: it is a function of (step, seed).
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from linearsr_jax.array_types import PyTree
from linearsr_jax.train_step import TrainState


class Checkpointer:
    """Saves and restores a run; the newest `keep` checkpoints stay on disk."""

    def __init__(self, directory: Path, *, keep: int):
        """Opens or creates the directory."""
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=True
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, run: dict[str, Any]) -> None:
        """Starts saving; a step that is already there is left alone."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)
            ),
        )

    def restore_run(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint."""
        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["run"]

    def restore_state(
        self, step: int, abstract_state: TrainState, shardings: PyTree
    ) -> TrainState:
        """The state, placed as the shardings say: any mesh will do.

        Args:
          step: of the checkpoint.
          abstract_state: its shapes and types.
          shardings: a tree like it.
        """
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract_state,
            shardings,
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"]

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()
