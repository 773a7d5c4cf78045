"""The training loop: all input and output of training, in one readable order.

    restore or initialise -> [batch -> step -> log -> validate -> checkpoint] ...

Validation and checkpoints come after the step they are named by: checkpoint n holds
the state after n steps, and the next batch a run that resumes there reads is number
n (batches count from 0). A run that diverges goes back to a checkpoint and reads the
samples in another order from there.
"""

import contextlib
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from ml_collections import ConfigDict

from linearsr_jax.codecs import describe_codec
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.esgf.guard import TROUBLES
from linearsr_jax.esgf.knee import Verdict
from linearsr_jax.training import batches as train_data
from linearsr_jax.training import checkpoints as checkpoint
from linearsr_jax.training import expert_axis, sharding, writers
from linearsr_jax.training import metrics as train_metrics
from linearsr_jax.training import optimizers as optim
from linearsr_jax.training import rewinding as rewind
from linearsr_jax.training.esgf_policy import Monitor, choose_knee, judge
from linearsr_jax.training.export import describe_origin, export_model
from linearsr_jax.training.initial_state import StartState, load_origin, load_run_codec
from linearsr_jax.training.profiler import ProfilerWindow
from linearsr_jax.training.progress import Progress
from linearsr_jax.training.record import check_same_config, flatten, new_record
from linearsr_jax.training.setup import make_parts
from linearsr_jax.training.step import TrainState, make_train_step
from linearsr_jax.training.stop_signal import StopSignal
from linearsr_jax.training.validation import Validator

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a call of `train_and_evaluate` ended.

    Attributes:
      state: of all experts, after the last step.
      is_finished: whether workdir/model is there; False if a signal came before.
      esgf: which weights that model has, and the knee they were chosen by; None if it
        is not there.
    """

    state: TrainState
    is_finished: bool
    esgf: dict[str, Any] | None = None


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> TrainResult:
    """Trains to config.steps or to the knee, from workdir's newest checkpoint if any.

    SIGTERM (a preemption notice) and SIGINT end the run after the current step with
    a checkpoint.

    Args:
      config: see `default_config`.
      workdir: gets checkpoints/, candidates/, metrics.jsonl, images/, tensorboard/,
        config.json, knee.json and, at the end, model/: the averaged weights of the last
        step or of the knee as a model folder.

    Raises:
      TrainError: the workdir holds a run of another config, or the run has diverged
        more than config.esgf.max_rewinds times.
      OSError, ValueError: unusable photographs; see `data.sources.open_source`.
    """
    workdir = Path(workdir)
    # Bad fields are refused before the workdir is made.
    parts = make_parts(config)

    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:

        def closing(thing):
            return stack.enter_context(contextlib.closing(thing))

        stack.enter_context(jax.set_mesh(parts.mesh))
        stop = stack.enter_context(StopSignal())
        checkpointer = closing(
            checkpoint.Checkpointer(
                workdir / "checkpoints", keep=config.keep_checkpoints
            )
        )
        start = checkpointer.latest_step
        run = new_record(config)
        if start is not None:
            run = checkpointer.restore_run(start)
            check_same_config(run, config, workdir)
        run["config"] = config.to_dict()
        # A run that goes on has its weights; what it started from may be gone.
        origin = load_origin(config, parts.preset) if start is None else None
        if origin:
            run["origin"] = describe_origin(origin.training)
        codec = load_run_codec(config, parts.preset, origin, run["codec"])
        run["codec"] = describe_codec(codec)
        codec = jax.device_put(codec, sharding.replicated(parts.mesh))
        manifest, source, held_out = train_data.open_photographs(
            config, run["manifest"] and Manifest.from_json(run["manifest"])
        )
        run["manifest"] = manifest.to_json()
        conditions, held_out_conditions = train_data.find_conditions(
            config, parts.preset, source, held_out
        )

        start_state = StartState(parts, seed=config.seed)
        if start is not None:
            state = start_state.restored(checkpointer, start)
            logger.info("resumed from step %d of %s", start, workdir)
        elif origin:
            state = start_state.from_model(origin)
        else:
            state = start_state.random()
        step = start or 0
        train_step = jax.jit(
            expert_axis.over_experts(
                make_train_step(
                    parts.loss,
                    parts.optimizer,
                    seed=config.seed,
                    accumulation=config.accumulation,
                )
            ),
            donate_argnums=0,
            out_shardings=(start_state.shardings, None),
        )
        monitor = None
        if held_out:
            validator = Validator(parts, held_out, config, codec, held_out_conditions)
            candidates = closing(
                checkpoint.Candidates(
                    workdir / "candidates", keep=config.esgf.candidates, start=step
                )
            )
            monitor = Monitor(parts, config, workdir, validator, candidates, codec)

        (workdir / "config.json").write_text(json.dumps(run["config"], indent=2) + "\n")
        profiler = closing(
            ProfilerWindow(
                workdir / "profile", step + config.profile.first, config.profile.count
            )
        )
        # What starts anew after a rewind: the samples and the log.
        streams = stack.enter_context(contextlib.ExitStack())

        def open_streams():
            streams.close()
            log = writers.make_writer(workdir, resume_step=step)
            streams.enter_context(contextlib.closing(log))
            seed = rewind.data_seed(config.seed, len(run["rewinds"]))
            batches = train_data.global_batches(
                config,
                source,
                conditions,
                parts.mesh,
                seed=seed,
                start_batch=step,
            )
            return log, streams.enter_context(batches)

        log, batches = open_streams()
        log.write_hparams(flatten(run["config"]))
        overview = parameter_overview.get_parameter_overview(state.params)
        log.write_texts(step, {"parameters": overview})

        # Of the steps since the last log: one step's numbers are mostly noise.
        summary = train_metrics.TrainMetrics.empty()
        samples = parts.experts * config.batch_size
        progress = Progress(step, config.steps, samples)
        verdict = judge(run["evaluations"], config.val.metrics)
        knee = choose_knee(config, run["evaluations"], verdict, is_over=False)
        while step < config.steps and knee is None:
            step += 1
            with progress.waiting_for_data():
                batch = next(batches)
            with profiler.step(step):
                state, metrics = train_step(state, batch, codec)
            profiler.end_step(step, metrics)
            summary = train_metrics.merge(summary, metrics)
            # Read once: a signal that comes later in this step ends the next one.
            is_stopping = stop.requested
            is_last = step == config.steps or is_stopping
            is_saved = step % config.checkpoint_every == 0 or is_last
            is_logged = step % config.log_every == 0 or is_last
            is_evaluated = monitor and (
                step % config.val.every == 0
                or step in (config.steps, config.esgf.knee_step)
            )
            trouble, since = None, step
            if is_logged or is_saved or is_evaluated:
                # The only fetches: they wait for the step to end.
                code = int(jnp.max(state.guard.trouble))
                trouble = TROUBLES[code] if code else None
            if is_logged and not trouble:
                scalars = train_metrics.scalars(summary)
                scalars["learning_rate"] = float(parts.schedule(step - 1))
                log.write_scalars(step, scalars | progress.report(step))
                summary = train_metrics.TrainMetrics.empty()
            if is_evaluated and not trouble:
                with progress.paused():
                    scores, images, verdict = monitor.evaluate(
                        step, state, run["evaluations"]
                    )
                    log.write_scalars(step, scores)
                    log.write_images(step, images)
                    log.flush()
                knee = choose_knee(config, run["evaluations"], verdict, is_over=False)
                is_lost = verdict.verdict == "diverged" and config.esgf.stop_at_knee
                if is_lost and knee is None:
                    trouble, since = verdict.reason, verdict.since_step
            if trouble:
                rewinds = rewind.plan_rewind(
                    workdir,
                    checkpointer.steps,
                    run["rewinds"],
                    step=step,
                    before=since,
                    reason=trouble,
                    max_rewinds=config.esgf.max_rewinds,
                )
                step, knee = rewinds[-1]["to"], None
                logger.warning("%s; going back to step %d", trouble, step)
                checkpointer.delete_after(step)
                if monitor:
                    monitor.rewind(step)
                state = None  # room for the other
                state = start_state.restored(checkpointer, step)
                run = checkpointer.restore_run(step) | {
                    "config": run["config"],
                    "rewinds": rewinds,
                }
                summary = train_metrics.TrainMetrics.empty()
                verdict = judge(run["evaluations"], config.val.metrics)
                log, batches = open_streams()
                progress = Progress(step, config.steps, samples)
                continue
            if is_saved or knee is not None:
                with progress.paused():
                    checkpointer.save(step, state, run)
            if is_stopping and step < config.steps and knee is None:
                logger.info("stopped at step %d; run the same command to go on", step)
                return TrainResult(state, is_finished=False)

        esgf, params = _choose_result(config, run, verdict, step, state, monitor)
        files = {"files": source.manifest.files}
        if held_out and not config.val.folder:
            files["held_out"] = held_out.manifest.files
        if conditions and config.condition.kind == "tags":
            files["tags"] = conditions.known_tags()
        export_model(workdir / "model", params, run, codec, files, esgf)
    return TrainResult(state, is_finished=True, esgf=esgf)


def _choose_result(
    config: ConfigDict,
    run: dict[str, Any],
    verdict: Verdict,
    step: int,
    state: TrainState,
    monitor: Monitor | None,
) -> tuple[dict[str, Any], PyTree]:
    """The averaged weights that a run at its end hands on, and why these."""
    esgf = {"step": step, "trained_to": step, "by": "last step"}
    params = optim.ema_params(state.opt_state)
    knee = choose_knee(config, run["evaluations"], verdict, is_over=True)
    if monitor and knee is not None:
        esgf["step"], params = monitor.restore(knee, state)
        by_hand = config.esgf.knee_step == knee
        esgf |= {"knee_step": knee, "by": "hand" if by_hand else "knee"}
    if run["evaluations"]:
        names = ("verdict", "knee_step", "decided_at_step", "reason")
        esgf["found"] = {name: getattr(verdict, name) for name in names}
    return esgf, params
