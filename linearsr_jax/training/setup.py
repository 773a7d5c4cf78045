"""Checks a training config and builds settings, network, optimiser, loss and mesh.

Beside the entry points `loop`, `stages` and `finetune`, which are handed a ConfigDict,
this is the only module of training that reads one; everything that it calls gets typed
values or keyword arguments.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from linearsr_jax.data.degrading import used
from linearsr_jax.data.pipeline import PipelineConfig
from linearsr_jax.metrics import get_metrics
from linearsr_jax.metrics.lpips import MIN_SIDE
from linearsr_jax.metrics.vgg16 import VggWeightsError
from linearsr_jax.models.linear_dit import REMAT_POLICIES
from linearsr_jax.models.presets import Preset, get_preset
from linearsr_jax.training.adversary import Adversary
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.optimizers import make_optimizer
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.record import BadFieldError, TrainError, flatten
from linearsr_jax.training.settings import (
    ConditionSettings,
    DataSettings,
    EsgfSettings,
    RunSettings,
    ValidationSettings,
)
from linearsr_jax.training.sharding import batch_parts, default_fsdp, make_mesh
from linearsr_jax.training.views import SIDE
from linearsr_jax.training.writers import TENSORBOARD_WRITERS

_AT_LEAST_ONE = (
    "batch_size",
    "log_every",
    "checkpoint_every",
    "val.every",
    "val.steps",
    "esgf.candidates",
    "accumulation",
)
_NOT_NEGATIVE = (
    "keep_every",
    "esgf.patience",
    "esgf.knee_step",
    "esgf.sharpness_every",
    "esgf.max_rewinds",
    "hang_exit_minutes",
)


def make_parts(
    config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> RunParts:
    """Builds the parts of a run, and refuses configs that no run can use.

    Args:
      config: see `default_config`.
      devices: devices of the mesh; by default all.

    Raises:
      BadFieldError: a field has a value that no run can use.
      TrainError: loss.lpips_vgg lacks its weights.
    """
    try:
        return _make_parts(config, devices)
    except BadFieldError:
        raise
    except ValueError as error:
        # What is made from the fields refuses some of them itself.
        raise BadFieldError(str(error)) from error


def _make_parts(config: ConfigDict, devices: Sequence[jax.Device] | None) -> RunParts:
    settings = make_settings(config)
    preset = get_preset(config.preset)
    _check_crops(settings, preset)
    how = {
        "dtype": jnp.dtype(config.dtype),
        "remat": config.remat,
        "scan_unroll": config.scan_unroll,
    }
    model = preset.make_model(**how)

    adversary = None
    if config.loss.adversarial:
        adversary = Adversary(seed=config.seed, **config.discriminator.to_dict())

    def make_loss(model):
        try:
            return Loss(
                model,
                preset,
                mass_at_one=config.mass_at_one,
                boundaries=settings.expert_boundaries,
                adversary=adversary,
                **config.loss.to_dict(),
            )
        except VggWeightsError as error:
            raise TrainError(f"loss.lpips_vgg: {error}") from error

    optimizer, schedule = make_optimizer(
        steps=config.steps, **config.optimizer.to_dict()
    )
    axes = config.mesh.to_dict()
    fsdp = axes.pop("fsdp") or default_fsdp(settings.preset, devices, **axes)
    mesh = make_mesh(fsdp=fsdp, devices=devices, **axes)
    _check_batch(settings, mesh)
    _check_rows(settings, preset, mesh)
    return RunParts(
        settings=settings,
        preset=preset,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        loss=make_loss(model),
        twice_differentiable_loss=make_loss(
            preset.make_model(**how, implementation="reference")
        ),
        mesh=mesh,
    )


def make_settings(config: ConfigDict) -> RunSettings:
    """Converts a config to typed values, and refuses configs that no run can use.

    Raises:
      BadFieldError, ValueError: a field has a value that no run can use.
    """
    _check_config(config)
    data, condition = config.data, config.condition
    pipeline = PipelineConfig(
        crop_size=data.crop_size,
        scale_range=tuple(data.scale_range),
        degradations=data.degradations.to_dict(),
        cache_bytes=int(data.cache_gb * 2**30),
        degrade_on=data.degrade_on,
        condition_dropout=condition.dropout,
    )
    return RunSettings(
        config=json.loads(json.dumps(config.to_dict())),
        preset=config.preset,
        codec_folder=config.codec_folder,
        init_from=config.init_from,
        expert_boundaries=tuple(config.expert_boundaries),
        seed=config.seed,
        steps=config.steps,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
        keep_every=config.keep_every,
        profile_first=config.profile.first,
        profile_count=config.profile.count,
        tensorboard=config.tensorboard,
        goodput_job=config.goodput_job,
        hang_exit_minutes=config.hang_exit_minutes,
        data=DataSettings(
            folder=data.folder,
            degradations=used(data.degradations),
            pipeline=pipeline,
            workers=data.workers,
            prefetch=data.prefetch,
        ),
        condition=ConditionSettings(
            kind=condition.kind,
            file=condition.file,
            val_file=condition.val_file,
            max_tokens=condition.max_tokens,
        ),
        val=ValidationSettings(**_fields(config.val)),
        esgf=EsgfSettings(**_fields(config.esgf)),
    )


def _fields(group: ConfigDict) -> dict[str, Any]:
    # An override may have turned a tuple into a list.
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in group.items()
    }


def _check_config(config: ConfigDict) -> None:
    if not config.data.folder:
        raise BadFieldError("data.folder is not set; --override data.folder=PHOTOS")
    for name in ("lpips", "lpips_vgg"):
        # VGG16 would do with half of it, but sees little there.
        if config.loss[name] and int(SIDE * config.data.crop_size) < MIN_SIDE:
            raise BadFieldError(
                f"data.crop_size {config.data.crop_size} is too small for loss.{name}; "
                f"set {math.ceil(MIN_SIDE / SIDE)} or more"
            )
    if config.dtype not in ("float32", "bfloat16"):
        raise BadFieldError(
            f"dtype {config.dtype!r} must be float32 or bfloat16 (float16 overflows in "
            "linear attention)"
        )
    for field, choices in (
        ("remat", REMAT_POLICIES),
        ("tensorboard", TENSORBOARD_WRITERS),
    ):
        if config[field] not in choices:
            raise BadFieldError(
                f"{field} {config[field]!r} must be one of {', '.join(choices)}"
            )
    values = flatten(config.to_dict())
    for field in _AT_LEAST_ONE:
        if values[field] < 1:
            raise BadFieldError(f"{field} must be at least 1")
    for field in _NOT_NEGATIVE:
        if values[field] < 0:
            raise BadFieldError(f"{field} must be at least 0")
    if config.esgf.knee_step > config.steps:
        raise BadFieldError(
            f"esgf.knee_step {config.esgf.knee_step} lies beyond the last of the "
            f"{config.steps} steps"
        )
    if config.optimizer.learning_rate <= 0 and config.optimizer.descent == "cosine":
        raise BadFieldError("optimizer.learning_rate must be above 0 to descend from")
    if config.val.folder and config.val.holdout:
        raise BadFieldError(
            "val.folder and val.holdout: set one; both say what to validate on"
        )
    by_knee = config.esgf.stop_at_knee or config.esgf.knee_step
    if by_knee and not (config.val.folder or config.val.holdout):
        raise BadFieldError(
            "esgf: finding a knee needs validations; set val.folder or val.holdout"
        )
    for metric in get_metrics(config.val.metrics):
        if metric.over != "image":
            raise BadFieldError(
                f"val.metrics: {metric.name} scores whole folders; use linearsr eval"
            )


def _check_batch(settings: RunSettings, mesh: Mesh) -> None:
    """Checks that experts and batches split into equal parts over the devices."""
    experts = settings.experts
    if experts % mesh.shape["experts"]:
        raise BadFieldError(
            f"{experts} experts do not split over mesh.experts {mesh.shape['experts']}"
        )
    parts = batch_parts(mesh)
    multiple = settings.accumulation * parts
    if settings.batch_size % multiple:
        below = settings.batch_size // multiple * multiple
        near = " or ".join(str(n) for n in (below, below + multiple) if n)
        raise BadFieldError(
            f"batch_size {settings.batch_size} must be a multiple of accumulation "
            f"{settings.accumulation} times the devices of mesh.data and mesh.fsdp, "
            f"{parts}: {near}"
        )


def _check_rows(settings: RunSettings, preset: Preset, mesh: Mesh) -> None:
    """Checks that the rows of latents split into equal parts over the devices."""
    crop, parts = settings.data.pipeline.crop_size, mesh.shape["sequence"]
    if crop % (preset.codec_factor * parts):
        raise BadFieldError(
            f"mesh.sequence {parts} does not divide the {crop // preset.codec_factor} "
            f"rows of latents of data.crop_size {crop}"
        )


def _check_crops(settings: RunSettings, preset: Preset) -> None:
    """Checks that the codec takes the crops."""
    sizes = {
        "data.crop_size": settings.data.pipeline.crop_size,
        "val.crop_size": settings.val.crop_size,
    }
    for field, size in sizes.items():
        if size < 1 or size % preset.codec_factor:
            raise BadFieldError(
                f"{field} {size} must be a multiple of {preset.codec_factor}, the "
                f"factor of the codec of preset {settings.preset}"
            )
