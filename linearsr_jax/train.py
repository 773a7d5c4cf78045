"""The training loop: all input and output of training, in one readable order.

    restore or initialise -> [batch -> step -> log -> validate -> checkpoint] ...

Validation and checkpoints come after the step they are named by: checkpoint n holds
the state after n steps, and the next batch a run that resumes there reads is number
n (batches count from 0).
"""

import contextlib
import copy
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from linearsr_jax import (
    checkpoint,
    optim,
    sharding,
    train_data,
    train_metrics,
    writers,
)
from linearsr_jax.codecs import Codec, describe_codec, load_codec, make_codec
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.losses import Loss
from linearsr_jax.models.presets import Preset, get_preset
from linearsr_jax.pretrained import (
    PretrainedModel,
    load_pretrained,
    model_card,
    save_pretrained,
)
from linearsr_jax.profiler import ProfilerWindow
from linearsr_jax.progress import Progress
from linearsr_jax.rng import stream_key
from linearsr_jax.run_record import (
    TrainError,
    check_batch,
    check_config,
    check_same_config,
    flatten,
    new_record,
)
from linearsr_jax.stop_signal import StopSignal
from linearsr_jax.train_step import (
    TrainState,
    make_init,
    make_state,
    make_train_step,
    unboxed,
)
from linearsr_jax.validation import Validator

logger = logging.getLogger(__name__)


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> TrainState:
    """Trains to config.steps, from workdir's newest checkpoint if there is one.

    SIGTERM (a preemption notice) and SIGINT end the run after the current step with
    a checkpoint.

    Args:
      config: see `default_config`.
      workdir: gets checkpoints/, metrics.jsonl, images/, tensorboard/, config.json
        and, at the end, model/: the averaged weights as a model folder.

    Returns:
      The state after the last step.

    Raises:
      TrainError: the workdir holds a run of another config, or a loss is not finite.
      OSError, ValueError: unusable photographs; see `data.sources.open_source`.
    """
    workdir = Path(workdir)
    check_config(config)
    preset = get_preset(config.preset)
    model = preset.make_model(
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        scan_unroll=config.scan_unroll,
    )
    optimizer, schedule = optim.make_optimizer(
        steps=config.steps, **config.optimizer.to_dict()
    )
    loss = Loss(model, preset, mass_at_one=config.mass_at_one, **config.loss.to_dict())
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    # Bad fields are refused before the workdir is made.
    check_batch(config, mesh.size)
    train_data.make_pipeline_config(config)

    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:

        def closing(thing):
            return stack.enter_context(contextlib.closing(thing))

        stack.enter_context(jax.set_mesh(mesh))
        stop = stack.enter_context(StopSignal())
        checkpointer = closing(
            checkpoint.Checkpointer(
                workdir / "checkpoints", keep=config.keep_checkpoints
            )
        )
        start = checkpointer.latest_step
        run = new_record(config) if start is None else checkpointer.restore_run(start)
        check_same_config(run["config"], config, workdir)
        run["config"] = config.to_dict()
        # A run that goes on has its weights; what it started from may be gone.
        origin = _load_origin(config.init_from, preset) if start is None else None
        codec = _load_codec(config, preset, origin, run["codec"])
        run["codec"] = describe_codec(codec)
        codec = jax.device_put(codec, sharding.replicated(mesh))
        manifest, source, held_out = train_data.open_photographs(
            config, run["manifest"] and Manifest.from_json(run["manifest"])
        )
        run["manifest"] = manifest.to_json()
        validator = held_out and Validator(
            held_out,
            config.val.crop_size,
            config.data.degradation,
            config.val.metrics,
            model,
            codec,
            preset,
        )

        init = make_init(model, optimizer)
        key = stream_key(config.seed, "init")
        shardings = sharding.state_sharding(jax.eval_shape(init, key), mesh)
        init = jax.jit(unboxed(init), out_shardings=shardings)
        if start is not None:
            abstract = jax.eval_shape(init, key)
            state = checkpointer.restore_state(start, abstract, shardings)
            logger.info("resumed from step %d of %s", start, workdir)
        elif origin:
            restart = jax.jit(
                functools.partial(make_state, optimizer=optimizer),
                in_shardings=(shardings.params,),
                out_shardings=shardings,
            )
            state = restart(origin.experts[0])
        else:
            state = init(key)
        start = start or 0
        train_step = jax.jit(
            make_train_step(
                loss,
                optimizer,
                seed=config.seed,
                accumulation=config.accumulation,
            ),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        batches = stack.enter_context(
            train_data.global_batches(
                config, source, mesh, seed=run["data_seed"], start_batch=start
            )
        )
        (workdir / "config.json").write_text(json.dumps(run["config"], indent=2) + "\n")
        log = closing(writers.make_writer(workdir, resume_step=start))
        log.write_hparams(flatten(run["config"]))
        overview = parameter_overview.get_parameter_overview(state.params)
        log.write_texts(start, {"parameters": overview})
        profiler = closing(
            ProfilerWindow(
                workdir / "profile",
                start + config.profile.first,
                config.profile.count,
            )
        )

        # Of the steps since the last log: one step's numbers are mostly noise.
        summary = train_metrics.TrainMetrics.empty()
        progress = Progress(start, config.steps, config.batch_size)
        for step in range(start + 1, config.steps + 1):
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
            if is_logged or is_saved:
                # The only fetches: they wait for the step to end.
                scalars = train_metrics.scalars(summary)
                # A gradient that is not finite shows in the parameters alone.
                unsound = [
                    name
                    for name in ("loss", "param_norm")
                    if not np.isfinite(scalars[name])
                ]
                if unsound:
                    raise TrainError(
                        f"{workdir}: {unsound[0]} is not finite by step {step}; the "
                        f"last checkpoint is {checkpointer.latest_step}. Lower "
                        "optimizer.learning_rate or optimizer.clip_norm"
                    )
            if is_logged:
                scalars["learning_rate"] = float(schedule(step - 1))
                log.write_scalars(step, scalars | progress.report(step))
                summary = train_metrics.TrainMetrics.empty()
            with progress.paused():
                if validator and (step % config.val.every == 0 or step == config.steps):
                    scores, images = validator(optim.ema_params(state.opt_state))
                    run["evaluations"].append({"step": step, **scores})
                    log.write_scalars(step, scores)
                    log.write_images(step, images)
                    log.flush()
                if is_saved:
                    checkpointer.save(step, state, run)
            if is_stopping and step < config.steps:
                logger.info("stopped at step %d; run the same command to go on", step)
                return state
        files = {"files": source.manifest.files}
        if held_out and not config.val.folder:
            files["held_out"] = held_out.manifest.files
        export_model(workdir / "model", state, run, codec, files)
    return state


def export_model(
    folder: Path,
    state: TrainState,
    run: dict[str, Any],
    codec: Codec,
    files: dict[str, Sequence[str]],
) -> None:
    """Writes the averaged weights of a run as a model folder; on every process.

    Args:
      folder: see `pretrained.save_pretrained`.
      state: of the run; fetched to the host.
      run: the JSON part of its checkpoints.
      codec: the one it was trained with.
      files: names of the photographs trained on (files) and held out (held_out).
    """
    params = optim.ema_params(state.opt_state)
    if jax.process_count() > 1:
        # No process has the whole of what is split over all of them.
        params = multihost_utils.process_allgather(params, tiled=True)
    if jax.process_index() != 0:
        return
    config = copy.deepcopy(run["config"])
    # Where the photographs lay is nobody's business; their names are below.
    config["data"]["folder"] = config["val"]["folder"] = ""
    config["codec_folder"] = ""
    config["init_from"] = Path(config["init_from"]).name
    training = {
        "step": int(state.step),
        "config": config,
        "versions": run["versions"],
        **files,
        "evaluation": run["evaluations"][-1] if run["evaluations"] else None,
    }
    save_pretrained(
        folder,
        (jax.device_get(params),),
        get_preset(run["config"]["preset"]),
        codec,
        training=training,
        card=model_card(training),
    )


def _load_codec(
    config: ConfigDict,
    preset: Preset,
    origin: PretrainedModel | None,
    description: dict[str, Any] | None,
) -> Codec:
    """The codec of the model it starts from, or of the run that goes on."""
    if origin and not config.codec_folder:
        return origin.codec
    if description:
        folder = config.codec_folder or config.init_from
        return make_codec(description, Path(folder) if folder else None)
    return load_codec(preset.codec, config.codec_folder)


def _load_origin(name_or_path: str, preset: Preset) -> PretrainedModel | None:
    """The model to start from, None for random weights."""
    if not name_or_path:
        return None
    model = load_pretrained(name_or_path)
    if model.preset != preset:
        raise TrainError(
            f"init_from {name_or_path}: holds a model of other sizes than preset's; "
            "set preset to the one it was trained with"
        )
    if model.boundaries:
        raise TrainError(
            f"init_from {name_or_path}: holds {len(model.experts)} experts; training "
            "starts from a model of one"
        )
    return model
