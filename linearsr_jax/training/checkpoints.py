"""Keeps checkpoints to resume from, and candidates for the knee, on disk.

A checkpoint is one Orbax composite per step: `state` is the TrainState of all experts
(parameters, optimiser, EMA, guard, step), and `run` is the JSON of its `RunRecord`. The
position in the data is not stored, because it is a function of (step, seed).

A candidate contains only the averaged weights, a quarter of a checkpoint with AdamW. It
is kept because the knee is known only some evaluations after it has passed.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.training.record import RunRecord
from linearsr_jax.training.step import TrainState


class Checkpointer:
    """Saves and restores a run; the newest `keep` checkpoints stay on disk."""

    def __init__(self, directory: Path, *, keep: int):
        """Opens or creates the directory."""
        self._workdir = directory.parent
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=LatestN(keep), enable_async_checkpointing=True
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, increasing."""
        return sorted(self._manager.all_steps())

    def delete_after(self, step: int) -> None:
        """Deletes later checkpoints; the run continues differently from here."""
        self._manager.wait_until_finished()
        for later in self.steps:
            if later > step:
                self._manager.delete(later)

    def save(self, step: int, state: TrainState, record: RunRecord) -> None:
        """Starts saving; does nothing for a step that is already saved."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                run=ocp.args.JsonSave(record.to_json()),
            ),
        )

    def restore_record(self, step: int) -> RunRecord:
        """Reads the JSON part of a checkpoint.

        Raises:
          TrainError: its version cannot be read.
        """
        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        values = self._manager.restore(step, args=args)["run"]
        return RunRecord.from_json(values, self._workdir)

    def restore_state(
        self, step: int, abstract_state: TrainState, shardings: PyTree
    ) -> TrainState:
        """Reads the state and places it by the shardings, on any mesh.

        Args:
          step: step of the checkpoint.
          abstract_state: shapes and types of the state.
          shardings: sharding of each array, in a tree like abstract_state.
        """
        target = _placed(abstract_state, shardings)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"]

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


class _NewestAndKnee(PreservationPolicy):
    """Keeps the newest candidates, and that of the knee.

    Attributes:
      knee_step: step of the knee, which may change between saves; None for no knee.
    """

    def __init__(self, keep: int):
        self.knee_step: int | None = None
        self._newest = LatestN(keep)

    def should_preserve(
        self,
        checkpoints: Sequence[PolicyCheckpointInfo],
        *,
        context: PreservationContext,
    ) -> Sequence[bool]:
        """Decides which checkpoints to keep; see `PreservationPolicy`."""
        is_newest = self._newest.should_preserve(checkpoints, context=context)
        return [
            newest or candidate.step == self.knee_step
            for newest, candidate in zip(is_newest, checkpoints, strict=True)
        ]


class Candidates:
    """The averaged weights of the newest validations."""

    def __init__(self, directory: Path, *, keep: int, start: int):
        """Opens or creates the directory.

        Args:
          directory: folder of the candidates.
          keep: number of candidates to keep, besides that of the knee.
          start: step that the run starts or resumes at; later candidates are deleted.
        """
        self._policy = _NewestAndKnee(keep)
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy, enable_async_checkpointing=True
            ),
        )
        self.delete_after(start)

    @property
    def steps(self) -> list[int]:
        """Steps of all complete candidates, increasing."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, params: PyTree, *, knee_step: int | None) -> None:
        """Starts saving, and deletes the oldest candidate unless it is the knee's."""
        self._policy.knee_step = knee_step
        self._manager.save(step, args=ocp.args.StandardSave(params))

    def delete_after(self, step: int) -> None:
        """Deletes later candidates."""
        self._manager.wait_until_finished()
        for later in self.steps:
            if later > step:
                self._manager.delete(later)

    def restore(self, step: int, like: PyTree) -> PyTree:
        """Reads the weights of a step and places them like the arrays of `like`."""
        self._manager.wait_until_finished()
        shardings = jax.tree.map(lambda x: x.sharding, like)
        args = ocp.args.StandardRestore(_placed(like, shardings))
        return self._manager.restore(step, args=args)

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def _placed(arrays: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        arrays,
        shardings,
    )
