"""Keeps checkpoints to resume from, and candidates for the knee, on disk.

A checkpoint is one Orbax composite per step: `state` is the TrainState of all experts
(parameters, optimiser, EMA, guard, step), and `run` is the JSON of its `RunRecord`. The
position in the data is not stored, because it is a function of (step, seed).

A candidate contains only the averaged weights, a quarter of a checkpoint with AdamW. It
is kept because the knee is known only some evaluations after it has passed.

Both contain `sums`: the fingerprints of their arrays, which are compared when they are
read. What cannot be read, or differs, is a DamageError. (0.2 wrote none; its
checkpoints, whose records have a lower format, are read as they are.)

Reading waits for no other host, so that one that fails leaves no other waiting.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.training.fingerprints import fingerprints
from linearsr_jax.training.hosts import gather_text, is_first
from linearsr_jax.training.record import FORMAT_WITH_SUMS, RunRecord, TrainError
from linearsr_jax.training.step import TrainState

# Replicas write an array together if each one's slice has at least this size. Cutting a
# slice off compiles a program for each shape and place: 216 of them at the first save
# of the preset debug on eight devices, where one replica writes it all in no time.
_MIN_SLICE_BYTES = 2**20
# How often, and how long apart, hosts look for the same checkpoints.
_LISTINGS, _SECONDS_BETWEEN_LISTINGS = 60, 2
# Name of the record in `sums`.
_RECORD = "run"


class DamageError(TrainError):
    """Raised for a checkpoint whose files are missing or not what was written."""


class _NewestAndOneMore(PreservationPolicy):
    """Keeps the newest checkpoints.

    Attributes:
      has_one_more: whether to keep one more than usual; may change between saves.
    """

    def __init__(self, keep: int):
        self.has_one_more = False
        self._keep = keep

    def should_preserve(
        self,
        checkpoints: Sequence[PolicyCheckpointInfo],
        *,
        context: PreservationContext,
    ) -> Sequence[bool]:
        """Decides which checkpoints to keep; see `PreservationPolicy`."""
        newest = LatestN(self._keep + self.has_one_more)
        return newest.should_preserve(checkpoints, context=context)


class Checkpointer:
    """Saves and restores a run; old checkpoints are deleted."""

    def __init__(self, directory: Path, *, keep: int, keep_every: int = 0):
        """Opens or creates the directory.

        Args:
          directory: folder of the checkpoints.
          keep: number of the newest checkpoints that stay.
          keep_every: checkpoints at multiples of this step stay, too; 0 for none.
        """
        self._directory = directory.absolute()
        self._newest = _NewestAndOneMore(keep)
        policy: PreservationPolicy = self._newest
        if keep_every:
            policy = AnyPreservationPolicy([policy, EveryNSteps(keep_every)])
        self._manager = _open_manager(directory, policy, "state", ("run", "sums"))

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, increasing."""
        return sorted(self._manager.all_steps())

    def wait_for_steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints once all hosts see the same.

        A shared file system may show a host its folders as they were a minute ago.

        Raises:
          TrainError: the hosts still see different checkpoints after two minutes.
        """
        return _wait_for_steps(self._manager)

    def delete_after(self, step: int) -> None:
        """Deletes later checkpoints; the run continues differently from here."""
        _delete_after(self._manager, step)

    def set_aside(self, steps: Sequence[int]) -> None:
        """Renames checkpoints to damaged-STEP, so that their steps can be saved."""
        if is_first():
            for step in steps:
                aside = self._directory / f"damaged-{step}"
                number = 1
                while aside.exists():
                    number += 1
                    aside = self._directory / f"damaged-{step}-{number}"
                os.rename(self._directory / str(step), aside)
        multihost_utils.sync_global_devices("set_aside")
        self._manager.reload()
        # A host that still sees them would not save these steps with the others.
        self.wait_for_steps()

    def save(
        self,
        step: int,
        state: TrainState,
        record: RunRecord,
        *,
        owes_validation: bool = False,
    ) -> None:
        """Starts saving; does nothing for a step that is already saved.

        Args:
          step: step of the state.
          state: state of all experts.
          record: record of the run.
          owes_validation: whether a validation of the state follows. It may find that
            this and other new checkpoints are of no use, so one more is kept until the
            next save.
        """
        if step in self._manager.all_steps():
            return
        self._newest.has_one_more = owes_validation
        run = record.to_json()
        sums = {**fingerprints(state), _RECORD: _sum_of(run)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                run=ocp.args.JsonSave(run),
                sums=ocp.args.JsonSave(sums),
            ),
        )

    def restore_record(self, step: int) -> RunRecord:
        """Reads the JSON part of a checkpoint.

        Raises:
          DamageError: it cannot be read, or is not what was written.
          TrainError: its version cannot be read.
        """
        self._manager.wait_until_finished()
        folder = self._directory / str(step)

        def read():
            values = _read_json(folder / "run")
            sums = _read_sums(folder)
            must_have_sums = values.get("format", 0) >= FORMAT_WITH_SUMS
            if (sums or must_have_sums) and sums.get(_RECORD) != _sum_of(values):
                raise ValueError("its record is not what was written")
            return values

        return RunRecord.from_json(_read_damaged(folder, read), self._directory.parent)

    def restore_state(
        self, step: int, abstract_state: TrainState, shardings: PyTree
    ) -> TrainState:
        """Reads the state and places it by the shardings, on any mesh.

        Args:
          step: step of the checkpoint.
          abstract_state: shapes and types of the state.
          shardings: sharding of each array, in a tree like abstract_state.

        Raises:
          DamageError: it cannot be read, or is not what was written.
        """
        target = _placed(abstract_state, shardings)
        return _restore_arrays(self._manager, step, "state", target)

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

        Raises:
          TrainError: as in `Checkpointer.wait_for_steps`.
        """
        self._policy = _NewestAndKnee(keep)
        self._manager = _open_manager(directory, self._policy, "default", ("sums",))
        # Hosts delete and save together.
        _wait_for_steps(self._manager)
        self.delete_after(start)

    @property
    def steps(self) -> list[int]:
        """Steps of all complete candidates, increasing."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, params: PyTree, *, knee_step: int | None) -> None:
        """Starts saving, and deletes the oldest candidate unless it is the knee's."""
        self._policy.knee_step = knee_step
        self._manager.save(
            step,
            args=ocp.args.Composite(
                default=ocp.args.PyTreeSave(params),
                sums=ocp.args.JsonSave(fingerprints(params)),
            ),
        )

    def delete_after(self, step: int) -> None:
        """Deletes later candidates."""
        _delete_after(self._manager, step)

    def restore(self, step: int, like: PyTree) -> PyTree:
        """Reads the weights of a step and places them like the arrays of `like`.

        Raises:
          DamageError: they cannot be read, or are not what was written.
        """
        target = _placed(like, jax.tree.map(lambda x: x.sharding, like))
        return _restore_arrays(self._manager, step, "default", target)

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def _open_manager(
    directory: Path, policy: PreservationPolicy, arrays: str, texts: Sequence[str]
) -> ocp.CheckpointManager:
    """Opens a manager of checkpoints with an item of arrays and items of JSON."""
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        enable_async_checkpointing=True,
        # Two managers may save the same step at the same time, and their processes must
        # not wait at each other's barriers.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=directory.name
        ),
    )
    handler = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=_MIN_SLICE_BYTES
    )
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, handler))
    handlers = {
        arrays: ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        **{name: ocp.JsonCheckpointHandler() for name in texts},
    }
    return ocp.CheckpointManager(
        directory.absolute(), options=options, item_handlers=handlers
    )


def _wait_for_steps(manager: ocp.CheckpointManager) -> list[int]:
    seen: list[str] = []
    for _ in range(_LISTINGS):
        steps = sorted(manager.all_steps())
        seen = gather_text(f"{len(steps)}, the last {steps[-5:]}")
        if len(set(seen)) == 1:
            return steps
        time.sleep(_SECONDS_BETWEEN_LISTINGS)
        manager.reload()
    other = next(i for i, text in enumerate(seen) if text != seen[0])
    raise TrainError(
        f"{manager.directory}: process 0 sees {seen[0]}, but process {other} sees "
        f"{seen[other]}; all hosts must share the folder"
    )


def _delete_after(manager: ocp.CheckpointManager, step: int) -> None:
    manager.wait_until_finished()
    for later in sorted(manager.all_steps()):
        if later > step:
            manager.delete(later)


def _restore_arrays(
    manager: ocp.CheckpointManager, step: int, item: str, target: PyTree
) -> PyTree:
    """Reads arrays by their shapes and shardings, and compares the fingerprints."""
    manager.wait_until_finished()
    folder = manager.directory / str(step)

    def read():
        handler = ocp.StandardCheckpointHandler()
        args = ocp.args.StandardRestore(target)
        return handler.restore(folder / item, args=args), _read_sums(Path(folder))

    arrays, sums = _read_damaged(Path(folder), read)
    found = fingerprints(arrays) if sums else {}
    wrong = [name for name in found if found[name] != sums.get(name)]
    # Each host sees its own copy of what is not split.
    _fail_on_all(Path(folder), f"{wrong[0]} is not what was written" if wrong else "")
    return arrays


def _read_damaged(folder: Path, read: Callable[[], Any]) -> Any:
    """Reads on every host, and fails on all if it fails on one."""
    found, reason = None, ""
    try:
        found = read()
    # A damaged file can make the libraries below raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    _fail_on_all(folder, reason)
    return found


def _fail_on_all(folder: Path, reason: str) -> None:
    """Fails on every host if one has a reason to."""
    for index, other in enumerate(gather_text(reason)):
        if other:
            raise DamageError(f"{folder}: {reason or f'process {index}: {other}'}")


def _read_json(folder: Path) -> Mapping[str, Any]:
    # As ocp.JsonCheckpointHandler names it.
    return json.loads((folder / "metadata").read_text())


def _read_sums(folder: Path) -> Mapping[str, Any]:
    return _read_json(folder / "sums") if (folder / "sums").is_dir() else {}


def _sum_of(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _placed(arrays: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        arrays,
        shardings,
    )
