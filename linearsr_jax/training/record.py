"""What a run remembers beside its state, and which configs may go on with it.

The record is the JSON part of every checkpoint.
"""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linearsr_jax.config.defaults import default_config
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.esgf.evaluation import Evaluation, Validation, parse_name
from linearsr_jax.metrics import METRICS, get_metrics

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
    "tensorboard",
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
# Of what is in a checkpoint. 2 had evaluations as {name: value}.
_FORMAT = 3


class TrainError(Exception):
    """A run that cannot start or go on; one line, says what to do."""


@dataclasses.dataclass(frozen=True)
class Rewind:
    """A return to an earlier checkpoint.

    Attributes:
      step: where the run was.
      to: where it went on from.
      reason: what was wrong.
    """

    step: int
    to: int
    reason: str


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run remembers.

    Attributes:
      config: the config it is trained with, as JSON's types.
      versions: package -> version when it started.
      data_seed: seed of the samples' order before any rewind.
      codec: see `codecs.describe_codec`.
      origin: what the model it started from says of itself, see
        `export.describe_origin`; None for random weights.
      manifest: all usable photographs of data.folder.
      validations: so far, by step.
      rewinds: so far.
    """

    config: dict[str, Any]
    versions: dict[str, str]
    data_seed: int
    codec: dict[str, Any]
    origin: dict[str, Any] | None
    manifest: Manifest
    validations: tuple[Validation, ...] = ()
    rewinds: tuple[Rewind, ...] = ()

    def with_validation(self, validation: Validation) -> "RunRecord":
        """Adds the newest validation."""
        return dataclasses.replace(self, validations=(*self.validations, validation))

    def to_json(self) -> dict[str, Any]:
        """Converts to JSON's types; `from_json` reads them."""
        values = dataclasses.asdict(self) | {"manifest": self.manifest.to_json()}
        return {"format": _FORMAT, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], workdir: Path) -> "RunRecord":
        """Reads the record of a checkpoint, also one of linearsr_jax 0.1.

        Args:
          values: the JSON part of a checkpoint.
          workdir: named in the error.

        Raises:
          TrainError: it is of another version.
        """
        values = dict(values)
        found = values.pop("format", None)
        if found == 2:
            values["validations"] = _validations_of_format_2(values)
            del values["evaluations"]
        elif found == _FORMAT:
            values["validations"] = tuple(
                Validation.from_json(validation) for validation in values["validations"]
            )
        else:
            raise TrainError(
                f"{workdir}: holds a run of another version of linearsr_jax; finish it "
                "with that one, or start anew in another --workdir with init_from"
            )
        values["manifest"] = Manifest.from_json(values["manifest"])
        values["rewinds"] = tuple(Rewind(**rewind) for rewind in values["rewinds"])
        return cls(**values)


def installed_versions() -> dict[str, str]:
    """Versions of the packages that training's bits depend on."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {name: importlib.metadata.version(name) for name in packages}


def _validations_of_format_2(values: Mapping[str, Any]) -> tuple[Validation, ...]:
    known = {
        metric.name: metric.higher_is_better
        for metric in (
            *METRICS.values(),
            *get_metrics(values["config"]["val"]["metrics"]),
        )
    }

    def read(name: str, value: float | None) -> Evaluation:
        metric, degradation, weights = parse_name(name)
        # All that validations wrote beside metrics were the gain and the flow loss.
        higher = known.get(metric, metric == "gain")
        value = float("nan") if value is None else value
        return Evaluation(metric, degradation, weights, higher, value)

    return tuple(
        Validation(
            row["step"],
            tuple(read(name, value) for name, value in row.items() if name != "step"),
        )
        for row in values["evaluations"]
    )


def check_same_config(
    record: RunRecord, config: Mapping[str, Any], workdir: Path
) -> None:
    """Refuses to go on with another config, but for the fields in RESUMABLE.

    Args:
      record: of the run.
      config: the one asked for, as JSON's types.
      workdir: named in the error.

    Raises:
      TrainError: naming the first field that differs.
    """
    # A field that came later (not one that was renamed): its default is what runs did
    # before it was there.
    before = flatten(default_config().to_dict()) | flatten(record.config)
    now = flatten(config)
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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; tuples become lists, as in JSON."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
