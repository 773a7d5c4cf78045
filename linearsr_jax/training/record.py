"""What a run remembers beside its state, and which configs may go on with it.

The record is the JSON part of every checkpoint: config, codec, what the model it
started from says of itself, versions of the packages, seed of the data, manifest of
usable photographs, evaluations and rewinds so far.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from linearsr_jax.config.defaults import default_config
from linearsr_jax.metrics import get_metrics
from linearsr_jax.models.linear_dit import REMAT_POLICIES

# Fields a run may change when it resumes. Most do not touch what is computed; a run
# may also be made longer, which moves the learning rate's descent to its new end.
RESUMABLE = (
    "steps",
    "optimizer.decay_steps",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "codec_folder",
    "init_from",
    "data.folder",
    "data.cache_gb",
    "data.workers",
    "data.prefetch",
    "val.folder",
    "val.every",
    "val.metrics",
    "val.steps",
    "esgf.stop_at_knee",
    "esgf.patience",
    "esgf.knee_step",
    "esgf.candidates",
    "esgf.sharpness_every",
    "esgf.max_rewinds",
    "profile.first",
    "profile.count",
    "scan_unroll",
    "remat",
    "accumulation",
    "mesh.experts",
    "mesh.data",
    "mesh.fsdp",
)
_AT_LEAST_ONE = (
    "log_every",
    "checkpoint_every",
    "val.every",
    "val.steps",
    "esgf.candidates",
    "accumulation",
)
_NOT_NEGATIVE = (
    "esgf.patience",
    "esgf.knee_step",
    "esgf.sharpness_every",
    "esgf.max_rewinds",
)
# Of what is in a checkpoint; another one cannot go on.
_FORMAT = 2


class TrainError(Exception):
    """A run that cannot start or go on; one line, says what to do."""


def new_record(config: ConfigDict) -> dict[str, Any]:
    """The record of a run that starts."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {
        "format": _FORMAT,
        "config": config.to_dict(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "data_seed": config.seed,
        "codec": None,
        "origin": None,
        "manifest": None,
        "evaluations": [],
        "rewinds": [],
    }


def check_config(config: ConfigDict) -> None:
    """Refuses what no run can work with, before anything is made.

    Raises:
      TrainError: naming the field.
    """
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
    values = flatten(config.to_dict())
    for field in _AT_LEAST_ONE:
        if values[field] < 1:
            raise TrainError(f"{field} must be at least 1")
    for field in _NOT_NEGATIVE:
        if values[field] < 0:
            raise TrainError(f"{field} must be at least 0")
    if config.esgf.knee_step > config.steps:
        raise TrainError(
            f"esgf.knee_step {config.esgf.knee_step} lies beyond the last of the "
            f"{config.steps} steps"
        )
    if config.optimizer.learning_rate <= 0 and config.optimizer.descent == "cosine":
        raise TrainError("optimizer.learning_rate must be above 0 to descend from")
    if config.val.folder and config.val.holdout:
        raise TrainError(
            "val.folder and val.holdout: set one; both say what to validate on"
        )
    by_knee = config.esgf.stop_at_knee or config.esgf.knee_step
    if by_knee and not (config.val.folder or config.val.holdout):
        raise TrainError(
            "esgf: a knee is one of validations; set val.folder or val.holdout"
        )
    for metric in get_metrics(config.val.metrics):
        if metric.over != "image":
            raise TrainError(
                f"val.metrics: {metric.name} is of whole folders; take linearsr eval"
            )


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses what does not split into equal parts over the devices.

    Raises:
      TrainError: naming the numbers.
    """
    experts = len(config.expert_boundaries) + 1
    if experts % mesh.shape["experts"]:
        raise TrainError(
            f"{experts} experts do not split over mesh.experts {mesh.shape['experts']}"
        )
    devices = mesh.size // mesh.shape["experts"]
    if config.batch_size % (config.accumulation * devices):
        raise TrainError(
            f"batch_size {config.batch_size} must be a multiple of accumulation "
            f"{config.accumulation} times the number of devices, {devices}"
        )


def check_same_config(record: dict, config: ConfigDict, workdir: Path) -> None:
    """Refuses to go on with another config, but for the fields in RESUMABLE.

    Args:
      record: of the run.
      config: the one asked for.
      workdir: named in the error.

    Raises:
      TrainError: naming the first field that differs.
    """
    if record.get("format") != _FORMAT:
        raise TrainError(
            f"{workdir}: holds a run of another version of linearsr_jax; finish it "
            "with that one, or start anew in another --workdir with init_from"
        )
    # A field that came later (not one that was renamed): its default is what runs did
    # before it was there.
    before = flatten(default_config().to_dict()) | flatten(record["config"])
    now = flatten(json.loads(json.dumps(config.to_dict())))
    changed = [
        field
        for field in sorted(before.keys() | now.keys())
        if field not in RESUMABLE and before.get(field) != now.get(field)
    ]
    if changed:
        field = changed[0]
        raise TrainError(
            f"{workdir}: holds a run with {field}={before.get(field)}, not "
            f"{now.get(field)}; use another --workdir or the same config"
        )


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; tuples become lists, as in JSON."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
