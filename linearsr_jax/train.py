"""The training loop: all input and output of training, in one readable order.

    restore or initialise -> [batch -> step -> log -> validate -> checkpoint] ...

Validation and checkpoints come after the step they are named by: checkpoint n holds
the state after n steps, and the next batch a run that resumes there reads is number
n (batches count from 0).
"""

import contextlib
import copy
import functools
import importlib.metadata
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from linearsr_jax import checkpoint, optim, sharding, train_metrics, writers
from linearsr_jax.codecs import Codec, load_codec
from linearsr_jax.data import device_degradations, pipeline
from linearsr_jax.data.degradation_params import get_degradation
from linearsr_jax.data.holdout import split_manifest
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.data.sources import PhotoSource, open_source
from linearsr_jax.default_config import default_config
from linearsr_jax.losses import Loss
from linearsr_jax.models.linear_dit import REMAT_POLICIES
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

# Fields a run may change when it resumes. Most do not touch what is computed; a run
# may also be made longer, which moves the learning rate's descent to its new end.
_RESUMABLE = (
    "steps",
    "optimizer.decay_steps",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "codec_folder",
    "data.folder",
    "data.cache_gb",
    "data.workers",
    "data.prefetch",
    "val.folder",
    "val.every",
    "val.metrics",
    "profile.first",
    "profile.count",
    "scan_unroll",
    "remat",
    "accumulation",
    "mesh.data",
    "mesh.fsdp",
)


class TrainError(Exception):
    """A run that cannot start or go on; one line, says what to do."""


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
    _check_config(config)
    preset = get_preset(config.preset)
    model = preset.make_model(
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        scan_unroll=config.scan_unroll,
    )
    origin = _load_origin(config.init_from, preset)
    if origin and not config.codec_folder:
        codec = origin.codec
    else:
        codec = load_codec(preset.codec, config.codec_folder)
    optimizer, schedule = optim.make_optimizer(
        steps=config.steps, **config.optimizer.to_dict()
    )
    loss = Loss(model, preset, mass_at_one=config.mass_at_one, **config.loss.to_dict())
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    codec = jax.device_put(codec, sharding.replicated(mesh))
    pipeline_config = pipeline.PipelineConfig(
        crop_size=config.data.crop_size,
        scale_range=tuple(config.data.scale_range),
        bicubic_probability=config.data.bicubic_probability,
        cache_bytes=int(config.data.cache_gb * 2**30),
        params=get_degradation(config.data.degradation),
        degrade_on=config.data.degrade_on,
    )

    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stop = stack.enter_context(StopSignal())
        checkpointer = stack.enter_context(
            contextlib.closing(
                checkpoint.Checkpointer(
                    workdir / "checkpoints", keep=config.keep_checkpoints
                )
            )
        )
        start = checkpointer.latest_step
        run = _new_run(config) if start is None else checkpointer.restore_run(start)
        _check_same_config(run["config"], config, workdir)
        run["config"] = config.to_dict()
        manifest = run["manifest"] and Manifest.from_json(run["manifest"])
        source = pipeline.open_source(config.data.folder, pipeline_config, manifest)
        _report_manifest(source.manifest)
        run["manifest"] = source.manifest.to_json()
        _write_json(workdir / "config.json", run["config"])
        source, held_out = _hold_out(source, config)
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
        if start is None:
            state, start = init(key), 0
            if origin:
                restart = functools.partial(make_state, optimizer=optimizer)
                state = jax.jit(restart, out_shardings=shardings)(origin.params)
        else:
            abstract = jax.eval_shape(init, key)
            state = checkpointer.restore_state(start, abstract, shardings)
            logger.info("resumed from step %d of %s", start, workdir)
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
        dataset = pipeline.make_dataset(
            source,
            pipeline_config,
            seed=run["data_seed"],
            batch_size=config.batch_size,
            start_batch=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        batches = stack.enter_context(
            contextlib.closing(
                pipeline.make_iterator(
                    dataset,
                    num_workers=config.data.workers,
                    prefetch=config.data.prefetch,
                )
            )
        )
        prepare_batch = _make_prepare_batch(pipeline_config, mesh)
        log = stack.enter_context(
            contextlib.closing(writers.make_writer(workdir, resume_step=start))
        )
        log.write_hparams(_flat(run["config"]))
        overview = parameter_overview.get_parameter_overview(state.params)
        log.write_texts(start, {"parameters": overview})
        profiler = stack.enter_context(
            contextlib.closing(
                ProfilerWindow(
                    workdir / "profile", config.profile.first, config.profile.count
                )
            )
        )
        # Of the steps since the last log: one step's numbers are mostly noise.
        summary = train_metrics.TrainMetrics.empty()
        progress = Progress(start, config.steps, config.batch_size)
        for step in range(start + 1, config.steps + 1):
            with progress.waiting_for_data():
                batch = sharding.put_batch(next(batches), mesh)
            with profiler.step(step):
                state, metrics = train_step(state, prepare_batch(batch), codec)
            profiler.end_step(step, metrics)
            summary = train_metrics.merge(summary, metrics)
            is_last = step == config.steps or stop.requested
            is_saved = step % config.checkpoint_every == 0 or is_last
            is_logged = step % config.log_every == 0 or is_last
            if is_logged or is_saved:
                # The only fetches: they wait for the step to end.
                scalars = train_metrics.scalars(summary)
                if not np.isfinite(scalars["loss"]):
                    raise TrainError(
                        f"{workdir}: a loss is not finite by step {step}; the last "
                        f"checkpoint is {checkpointer.latest_step}. Lower "
                        "optimizer.learning_rate or optimizer.clip_norm"
                    )
            if is_logged:
                scalars["learning_rate"] = float(schedule(step))
                log.write_scalars(step, scalars | progress.report(step))
                summary = train_metrics.TrainMetrics.empty()
            if validator and (step % config.val.every == 0 or step == config.steps):
                scores, images = validator(optim.ema_params(state.opt_state))
                run["evaluations"].append({"step": step, **scores})
                log.write_scalars(step, scores)
                log.write_images(step, images)
                log.flush()
            if is_saved:
                checkpointer.save(step, state, run)
            if stop.requested:
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
    """Writes the averaged weights of a run as a model folder.

    Args:
      folder: see `pretrained.save_pretrained`.
      state: of the run; fetched to the host.
      run: the JSON part of its checkpoints.
      codec: the one it was trained with.
      files: names of the photographs trained on (files) and held out (held_out).
    """
    if jax.process_index() != 0:
        return
    config = copy.deepcopy(run["config"])
    # Where the photographs lay is nobody's business; their names are below.
    config["data"]["folder"] = config["val"]["folder"] = ""
    config["codec_folder"] = ""
    training = {
        "step": int(state.step),
        "config": config,
        "versions": run["versions"],
        **files,
        "evaluation": run["evaluations"][-1] if run["evaluations"] else None,
    }
    save_pretrained(
        folder,
        jax.device_get(optim.ema_params(state.opt_state)),
        get_preset(run["config"]["preset"]),
        codec,
        training=training,
        card=model_card(training),
    )


def _hold_out(
    source: PhotoSource, config: ConfigDict
) -> tuple[PhotoSource, PhotoSource | None]:
    """What to train on, and what to validate on if anything."""
    size = config.val.crop_size
    if config.val.folder:
        return source, open_source(config.val.folder, min_size=size, cache_bytes=0)
    if not config.val.holdout:
        return source, None
    kept, held_out = split_manifest(source.manifest, config.val.holdout, size)
    return (
        PhotoSource(source.store, kept, cache_bytes=source.cache_bytes),
        PhotoSource(source.store, held_out, cache_bytes=0),
    )


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
    return model


def _make_prepare_batch(
    config: pipeline.PipelineConfig, mesh: jax.sharding.Mesh
) -> Callable[[dict], dict]:
    """Returns what makes image_lr, where the pipeline has not, from a global batch."""
    if config.degrade_on == "host":
        return lambda batch: batch
    prepare = functools.partial(
        device_degradations.prepare_batch, params=config.params, factor=config.factor
    )
    return sharding.split_over_batch(prepare, mesh)


def _new_run(config: ConfigDict) -> dict[str, Any]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {
        "config": config.to_dict(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "data_seed": config.seed,
        "rewinds": 0,
        "manifest": None,
        "evaluations": [],
    }


def _check_config(config: ConfigDict) -> None:
    if not config.data.folder:
        raise TrainError("data.folder is not set; --override data.folder=PHOTOS")
    if config.dtype not in ("float32", "bfloat16"):
        raise TrainError(
            f"dtype {config.dtype!r} must be float32 or bfloat16 (float16 overflows in "
            "linear attention)"
        )
    if config.remat not in REMAT_POLICIES:
        raise TrainError(
            f"remat {config.remat!r} must be one of {', '.join(REMAT_POLICIES)}"
        )
    if config.accumulation < 1 or config.batch_size % config.accumulation:
        raise TrainError(
            f"batch_size {config.batch_size} must be a multiple of accumulation "
            f"{config.accumulation}"
        )


def _check_same_config(saved: dict, config: ConfigDict, workdir: Path) -> None:
    # The default of a field that came later is what runs did before it was there.
    before = _flat(default_config().to_dict()) | _flat(saved)
    now = _flat(json.loads(json.dumps(config.to_dict())))
    changed = [
        field
        for field in sorted(before.keys() | now.keys())
        if field not in _RESUMABLE and before.get(field) != now.get(field)
    ]
    if changed:
        field = changed[0]
        raise TrainError(
            f"{workdir}: holds a run with {field}={before.get(field)}, not "
            f"{now.get(field)}; use another --workdir or the same config"
        )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _report_manifest(manifest: Manifest) -> None:
    logger.info(
        "%d photographs, %d rejected", len(manifest.files), len(manifest.rejected)
    )
    for name, reason in manifest.rejected.items():
        logger.warning("rejected %s: %s", name, reason)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
