"""An open run: its state, its inputs, and the actions that `loop` takes in order."""

import collections
import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Generator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from clu.parameter_overview import get_parameter_overview

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.core.files import write_text
from linearsr_jax.esgf.guard import TROUBLES
from linearsr_jax.esgf.knee import Verdict
from linearsr_jax.esgf.run_log import LOG
from linearsr_jax.training.batches import global_batches
from linearsr_jax.training.cadence import find_due
from linearsr_jax.training.checkpoints import Candidates, Checkpointer, DamageError
from linearsr_jax.training.cloud_goodput import open_cloud_goodput
from linearsr_jax.training.esgf_policy import Monitor, Selection, choose_knee, judge
from linearsr_jax.training.export import export_model
from linearsr_jax.training.goodput import Goodput
from linearsr_jax.training.heartbeat import Heartbeat
from linearsr_jax.training.hosts import is_first, wait_for_others
from linearsr_jax.training.initial_state import StartState
from linearsr_jax.training.inputs import RunInputs, check_hosts_agree, open_inputs
from linearsr_jax.training.jitted_step import jit_step
from linearsr_jax.training.metrics import TrainMetrics, merge, scalars
from linearsr_jax.training.optimizers import ema_params
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.profiler import ProfilerWindow
from linearsr_jax.training.progress import Progress
from linearsr_jax.training.record import Rewind, RunRecord, flatten
from linearsr_jax.training.resuming import find_resumable
from linearsr_jax.training.revalidating import drop_validation, is_validated
from linearsr_jax.training.rewinding import data_seed, plan_rewind
from linearsr_jax.training.step import TrainState
from linearsr_jax.training.validation import Validator
from linearsr_jax.training.workdir import CHECKPOINTS
from linearsr_jax.training.writers import make_writer

logger = logging.getLogger(__name__)

# Steps that may be queued on the devices. A signal stops the run after all of them.
_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Trouble:
    """A reason to rewind a run, and the step at which the trouble began."""

    reason: str
    since: int


@contextlib.contextmanager
def open_trainer(
    parts: RunParts, workdir: Path, is_stopping: Callable[[], bool]
) -> Generator["Trainer"]:
    """Opens a run in workdir, new or from its newest checkpoint, under the mesh.

    Args:
      parts: parts of the run.
      workdir: folder of the run.
      is_stopping: tells whether to give up a validation; see `Validator`.

    Yields:
      The run, which is closed at the end of the block.

    Raises:
      TrainError, OSError, ValueError: see `find_resumable` and `open_inputs`.
    """
    with contextlib.ExitStack() as stack:
        yield Trainer(parts, workdir, is_stopping, stack)


class Trainer:
    """An open run.

    Attributes:
      step: number of steps taken.
      state: state of all experts after that step.
      record: record of the run.
      has_validation: whether there are photographs to validate on.
    """

    def __init__(
        self,
        parts: RunParts,
        workdir: Path,
        is_stopping: Callable[[], bool],
        stack: contextlib.ExitStack,
    ):
        """Restores or initialises the run; the stack closes everything it opens."""
        job = parts.settings.goodput_job
        listener = _enter(stack, open_cloud_goodput(job)) if job else None
        self._goodput = Goodput(listener=listener)
        self._is_stopping = is_stopping
        with self._goodput.spending("starting"):
            self._open(parts, workdir, stack)

    def _open(self, parts: RunParts, workdir: Path, stack: contextlib.ExitStack):
        settings = parts.settings
        self._parts, self._settings, self._workdir = parts, settings, workdir
        # First: restoring, or finding the photographs, may hang as well.
        seconds = 60 * settings.hang_exit_minutes
        self._heartbeat = _enter(
            stack, Heartbeat(workdir / "hosts", exits_after=seconds)
        )
        # Before anything runs on the mesh, which may be another one elsewhere.
        check_hosts_agree(settings.config)
        self._checkpointer = _enter(
            stack,
            Checkpointer(
                workdir / CHECKPOINTS,
                keep=settings.keep_checkpoints,
                keep_every=settings.keep_every,
            ),
        )
        self._start_state = StartState(parts)
        resumed = find_resumable(
            self._checkpointer, self._start_state, settings.config, workdir
        )
        self._inputs = inputs = open_inputs(parts, resumed.record if resumed else None)
        self.record = inputs.record
        self.step = resumed.step if resumed else 0
        if resumed:
            self.state = resumed.state
            logger.info("resumed from step %d of %s", self.step, workdir)
        elif inputs.origin:
            self.state = self._start_state.from_model(inputs.origin)
        else:
            self.state = self._start_state.random()
        self._running: collections.deque = collections.deque()
        self._compiled: jax.stages.Compiled | None = None
        self._train_step = jit_step(parts, self._start_state.shardings)
        self._monitor = self._make_monitor(inputs, stack)
        self.has_validation = self._monitor is not None
        if is_first():
            text = json.dumps(settings.config, indent=2) + "\n"
            write_text(workdir / "config.json", text)
        self._profiler = _enter(
            stack,
            ProfilerWindow(
                workdir / "profile",
                self.step + settings.profile_first,
                settings.profile_count,
            ),
        )
        self._streams = stack.enter_context(contextlib.ExitStack())
        self._open_streams()
        self._log.write_hparams(flatten(settings.config))
        overview = get_parameter_overview(self.state.params, include_stats="global")
        self._log.write_texts(self.step, {"parameters": overview})
        self._judge(judge(self.record.validations, settings.val.metrics))

    def _make_monitor(self, inputs: RunInputs, stack) -> Monitor | None:
        photographs = inputs.photographs
        if not photographs.held_out:
            return None
        validator = Validator(
            self._parts,
            photographs.held_out,
            codec=inputs.codec,
            conditions=photographs.held_out_conditions,
            is_stopping=self._is_stopping,
        )
        candidates = Candidates(
            self._workdir / "candidates",
            keep=self._settings.esgf.candidates,
            start=self.step,
        )
        return Monitor(
            self._parts,
            workdir=self._workdir,
            validator=validator,
            candidates=_enter(stack, candidates),
            codec=inputs.codec,
        )

    def _open_streams(self) -> None:
        """Opens what a rewind starts anew: the log, the samples, the rates."""
        self._streams.close()
        settings = self._settings
        if is_first() and not is_validated(self.record, self.step):
            drop_validation(self._workdir / LOG, self.step)
        log = make_writer(
            self._workdir, resume_step=self.step, tensorboard=settings.tensorboard
        )
        self._log = _enter(self._streams, log)
        batches = global_batches(
            settings,
            self._inputs.photographs,
            self._parts.mesh,
            seed=data_seed(settings.seed, len(self.record.rewinds)),
            start_batch=self.step,
        )
        self._batches = self._streams.enter_context(batches)
        samples = settings.experts * settings.batch_size
        self._progress = Progress(self.step, settings.steps, samples)
        # Summarises the steps since the last log; single steps are mostly noise.
        self._summary = TrainMetrics.empty()

    def _judge(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._knee = choose_knee(
            self._settings.esgf, self.record.validations, verdict, is_over=False
        )

    @property
    def owes_validation(self) -> bool:
        """Tells whether the validation after this step is due and has not been done."""
        due = find_due(
            self._settings,
            self.step,
            is_stopping=False,
            has_validation=self.has_validation,
        )
        is_done = is_validated(self.record, self.step)
        return self.step > 0 and due.validation and not is_done

    @property
    def is_over(self) -> bool:
        """Tells whether the last step was taken or a knee has stood for long enough."""
        return self.step >= self._settings.steps or self.is_at_knee

    @property
    def is_at_knee(self) -> bool:
        """Tells whether a knee has ended the run."""
        return self._knee is not None

    def take_step(self) -> None:
        """Trains on the next batch; returns before the devices are done."""
        self.step += 1
        self._heartbeat.beat(self.step)
        with self._progress.waiting_for_data(), self._goodput.spending("data_wait"):
            batch = next(self._batches)
        if self._compiled is None:
            with self._goodput.spending("compiling"), self._heartbeat.paused():
                self._compiled = self._train_step.lower(
                    self.state, batch, self._inputs.codec
                ).compile()
                wait_for_others("compiled")
        if len(self._running) == _AHEAD:
            jax.block_until_ready(self._running.popleft())
        self._goodput.begin_step(self.step)
        with self._profiler.step(self.step):
            self.state, metrics = self._compiled(self.state, batch, self._inputs.codec)
        self._profiler.end_step(self.step, metrics)
        self._running.append(metrics)
        self._summary = merge(self._summary, metrics)

    def find_trouble(self) -> Trouble | None:
        """Checks the guards of all experts; waits for the step to end."""
        code = int(jnp.max(self.state.guard.trouble))
        return Trouble(TROUBLES[code], since=self.step) if code else None

    def write_log(self) -> None:
        """Logs the steps since the last log."""
        numbers = scalars(self._summary)
        numbers["learning_rate"] = float(
            np.asarray(self._parts.schedule(self.step - 1))
        )
        numbers |= self._progress.report(self.step) | self._goodput.report()
        self._log.write_scalars(self.step, numbers)
        self._summary = TrainMetrics.empty()

    def validate(self) -> Trouble | None:
        """Validates, logs the scores, and looks for the knee.

        Returns:
          The trouble, if the run has lost its gain before any knee; else None.

        Raises:
          ValidationStopped: a signal came; nothing of the validation is kept.
        """
        assert self._monitor is not None  # As has_validation says.
        with self._pausing("validating"):
            findings = self._monitor.validate(
                self.step, self.state, self.record.validations
            )
            self._log.write_validation(
                findings.validation,
                metrics=self._settings.val.metrics,
                others=findings.sharpness,
            )
            self._log.write_images(self.step, findings.images)
            self._log.flush()
        self.record = self.record.with_validation(findings.validation)
        self._judge(verdict := findings.verdict)
        is_lost = verdict.verdict == "diverged" and self._settings.esgf.stop_at_knee
        if is_lost and not self.is_at_knee:
            assert verdict.since_step is not None  # A divergence has a beginning.
            return Trouble(verdict.reason, since=verdict.since_step)
        return None

    def save(self) -> None:
        """Starts saving a checkpoint."""
        self._goodput.note_checkpoint(self.step)
        with self._pausing("saving"):
            self._checkpointer.save(
                self.step,
                self.state,
                self.record,
                owes_validation=self.owes_validation,
            )

    @contextlib.contextmanager
    def _pausing(self, kind: str) -> Generator[None]:
        """Counts the with block as one of `run_log.KINDS`, and not as a step."""
        with (
            self._progress.paused(),
            self._goodput.spending(kind),
            self._heartbeat.paused(),
        ):
            yield

    def rewind(self, trouble: Trouble) -> None:
        """Returns to a checkpoint from before the trouble, to read other samples.

        Raises:
          TrainError: see `plan_rewind`.
        """
        del self.state  # free the memory first
        with self._heartbeat.paused():
            self._rewind(trouble)

    def _rewind(self, trouble: Trouble) -> None:
        rewind, record, self.state = self._restore_before(trouble)
        self.step = rewind.to
        self._goodput.note_rewind(rewind.to)
        self._checkpointer.delete_after(rewind.to)
        if self._monitor:
            self._monitor.rewind(rewind.to)
        self.record = dataclasses.replace(
            record,
            config=self.record.config,
            rewinds=(*self.record.rewinds, rewind),
        )
        self._judge(judge(self.record.validations, self._settings.val.metrics))
        self._open_streams()

    def _restore_before(self, trouble: Trouble) -> tuple[Rewind, RunRecord, TrainState]:
        while True:
            rewind = plan_rewind(
                self._workdir,
                self._checkpointer.steps,
                self.record.rewinds,
                step=self.step,
                before=trouble.since,
                reason=trouble.reason,
                max_rewinds=self._settings.esgf.max_rewinds,
            )
            logger.warning("%s; going back to step %d", rewind.reason, rewind.to)
            try:
                record = self._checkpointer.restore_record(rewind.to)
                state = self._start_state.restored(self._checkpointer, rewind.to)
            except DamageError as error:
                logger.warning("damaged checkpoint: %s", error)
                self._checkpointer.set_aside([rewind.to])
                continue
            return rewind, record, state

    def export(self) -> Selection:
        """Writes workdir/model: the averaged weights of the knee or of the last step.

        Returns:
          The choice of the weights.

        Raises:
          TrainError: see `Monitor.restore`.
        """
        with self._heartbeat.paused():
            return self._export()

    def _export(self) -> Selection:
        selection, params = self._choose_result()
        photographs = self._inputs.photographs
        files = {"files": photographs.source.manifest.files}
        if photographs.held_out and not self._settings.val.folder:
            files["held_out"] = photographs.held_out.manifest.files
        if photographs.conditions and self._settings.condition.kind == "tags":
            files["tags"] = photographs.conditions.known_tags()
        export_model(
            self._workdir / "model",
            params,
            record=self.record,
            codec=self._inputs.codec,
            files=files,
            selection=selection,
        )
        return selection

    def _choose_result(self) -> tuple[Selection, PyTree]:
        has_verdict = bool(self.record.validations)
        selection = Selection(
            step=self.step,
            trained_to=self.step,
            verdict=self._verdict if has_verdict else None,
        )
        esgf = self._settings.esgf
        knee = choose_knee(esgf, self.record.validations, self._verdict, is_over=True)
        if self._monitor is None or knee is None:
            return selection, ema_params(self.state.opt_state)
        step, params = self._monitor.restore(knee, self.state)
        by = "hand" if esgf.knee_step == knee else "knee"
        chosen = dataclasses.replace(selection, step=step, by=by, knee_step=knee)
        return chosen, params


def _enter(stack: contextlib.ExitStack, thing):
    """Closes a thing together with the stack, and returns it."""
    return stack.enter_context(contextlib.closing(thing))
