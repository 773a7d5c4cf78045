"""The training loop: all input and output of training, in one readable order.

    restore or initialise -> [batch -> step -> log -> validate -> checkpoint] ...

Validation and checkpoints come after the step they are named by: checkpoint n holds
the state after n steps, and the next batch a run that resumes there reads is number
n (batches count from 0).
"""

import importlib.metadata
import json
import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from linearsr_jax import checkpoint, optim, sharding, writers
from linearsr_jax.codecs import CODECS
from linearsr_jax.data import pipeline, sources
from linearsr_jax.models.presets import get_preset
from linearsr_jax.rng import stream_key
from linearsr_jax.train_step import TrainState, make_init, make_train_step, unboxed
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
    "data.folder",
    "data.cache_gb",
    "data.workers",
    "data.prefetch",
    "val.folder",
    "val.every",
    "mesh.data",
    "mesh.fsdp",
)


class TrainError(Exception):
    """A run that cannot start or go on; one line, says what to do."""


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> TrainState:
    """Trains to config.steps, resuming from workdir's newest checkpoint if there is one.

    SIGTERM (a preemption notice) and SIGINT end the run after the current step with
    a checkpoint.

    Args:
      config: see configs/common.py.
      workdir: gets checkpoints/, metrics.jsonl and config.json.

    Returns:
      The state after the last step.

    Raises:
      TrainError: the workdir holds a run of another config, or a loss is not finite.
      OSError, ValueError: unusable photographs; see `data.sources.scan_folder`.
    """
    workdir = Path(workdir)
    preset = get_preset(config.preset)
    model = preset.make_model(dtype=np.dtype(config.dtype), remat=config.remat)
    codec = CODECS[preset.codec]()
    optimizer, schedule = optim.make_optimizer(
        steps=config.steps, **config.optimizer.to_dict()
    )
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    pipeline_config = pipeline.PipelineConfig(
        crop_size=config.data.crop_size,
        scale_range=tuple(config.data.scale_range),
        bicubic_probability=config.data.bicubic_probability,
        cache_bytes=int(config.data.cache_gb * 2**30),
    )

    workdir.mkdir(parents=True, exist_ok=True)
    checkpointer = checkpoint.Checkpointer(
        workdir / "checkpoints", keep=config.keep_checkpoints
    )
    start = checkpointer.latest_step
    run = _start_run(config) if start is None else checkpointer.restore_run(start)
    _check_same_config(run["config"], config, workdir)
    manifest = run["manifest"] and sources.Manifest.from_json(run["manifest"])
    source = pipeline.open_folder(config.data.folder, pipeline_config, manifest)
    _report_manifest(source.manifest)
    run["manifest"] = source.manifest.to_json()
    (workdir / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")

    validator = None
    if config.val.folder:
        validator = Validator(
            config.val.folder, config.val.crop_size, model, codec, preset
        )

    with jax.set_mesh(mesh), _StopSignal() as stop:
        init = make_init(model, optimizer)
        key = stream_key(config.seed, "init")
        shardings = sharding.state_sharding(jax.eval_shape(init, key), mesh)
        init = jax.jit(unboxed(init), out_shardings=shardings)
        if start is None:
            state, start = init(key), 0
        else:
            abstract = checkpoint.abstract_with_sharding(
                jax.eval_shape(init, key), shardings
            )
            state = checkpointer.restore_state(start, abstract)
            logger.info("resumed from step %d of %s", start, workdir)
        train_step = jax.jit(
            make_train_step(
                model,
                codec,
                preset,
                optimizer,
                seed=config.seed,
                mass_at_one=config.mass_at_one,
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
        batches = pipeline.make_iterator(
            dataset, num_workers=config.data.workers, prefetch=config.data.prefetch
        )
        log = [writers.LogWriter()]
        if jax.process_index() == 0:
            log.append(writers.JsonLinesWriter(workdir / "metrics.jsonl", start))
        progress = _Progress(start, config.steps, config.batch_size)
        # Compared below by value, not fetched: a fetch every step would wait for it.
        for step in range(start + 1, config.steps + 1):
            with progress.waiting_for_data():
                batch = sharding.put_batch(next(batches), mesh)
            state, metrics = train_step(state, batch)
            is_last = step == config.steps or stop.requested
            if step % config.log_every == 0 or is_last:
                scalars = {name: float(value) for name, value in metrics.items()}
                scalars["learning_rate"] = float(schedule(step))
                scalars |= progress.report(step)
                _write(log, step, scalars)
                if not np.isfinite(scalars["loss"]):
                    raise TrainError(
                        f"{workdir}: the loss is not finite at step {step}; the last "
                        f"good checkpoint is {checkpointer.latest_step}. Lower "
                        "optimizer.learning_rate or optimizer.clip_norm"
                    )
            if validator and (step % config.val.every == 0 or step == config.steps):
                scores = validator(optim.ema_params(state.opt_state))
                run["evaluations"].append({"step": step, **scores})
                _write(log, step, scores)
            if step % config.checkpoint_every == 0 or is_last:
                checkpointer.save(step, state, run)
            if stop.requested:
                logger.info("stopped at step %d; run the same command to go on", step)
                break
        checkpointer.close()
        batches.close()
        for writer in log:
            writer.close()
    return state


def _start_run(config: ConfigDict) -> dict[str, Any]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {
        "config": config.to_dict(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "data_seed": config.seed,
        "rewinds": 0,
        "manifest": None,
        "evaluations": [],
    }


def _check_same_config(saved: dict, config: ConfigDict, workdir: Path) -> None:
    before, now = _flat(saved), _flat(json.loads(json.dumps(config.to_dict())))
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


def _report_manifest(manifest: sources.Manifest) -> None:
    logger.info(
        "%d photographs, %d rejected", len(manifest.files), len(manifest.rejected)
    )
    for name, reason in manifest.rejected.items():
        logger.warning("rejected %s: %s", name, reason)


def _write(log: list[writers.MetricWriter], step: int, scalars: dict) -> None:
    for writer in log:
        writer.write_scalars(step, scalars)


class _Progress:
    """Rates since the last report: examples/s, time left, share spent on data."""

    def __init__(self, start: int, steps: int, batch_size: int):
        self._steps, self._batch_size = steps, batch_size
        self._last_step, self._last_time = start, time.monotonic()
        self._waited = 0.0

    def waiting_for_data(self):
        return _Timer(self)

    def add_wait(self, seconds: float) -> None:
        self._waited += seconds

    def report(self, step: int) -> dict[str, float]:
        now = time.monotonic()
        seconds = max(now - self._last_time, 1e-9)
        done = step - self._last_step
        rates = {
            "examples_per_s": done * self._batch_size / seconds,
            "minutes_left": (self._steps - step) * seconds / max(done, 1) / 60,
            "data_wait_percent": 100 * self._waited / seconds,
        }
        self._last_step, self._last_time, self._waited = step, now, 0.0
        return rates


class _Timer:
    """Adds the time inside a with block to a progress's waiting time."""

    def __init__(self, progress: _Progress):
        self._progress = progress

    def __enter__(self):
        self._start = time.monotonic()

    def __exit__(self, *_):
        self._progress.add_wait(time.monotonic() - self._start)


class _StopSignal:
    """Notes SIGTERM and SIGINT instead of dying; only the main thread can."""

    requested = False

    def __enter__(self):
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, *_):
        self.requested = True

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
