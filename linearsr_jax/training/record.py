"""The record of a run, and the config fields that a resumed run may change.

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

# Fields that may change when a run resumes. Most do not affect what is computed. A run
# may also be made longer, which moves the decay of the learning rate to the new end.
RESUMABLE = (
    "steps",
    "optimizer.decay_steps",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "codec_folder",
    "init_from",
    "tensorboard",
    "goodput_job",
    "hang_exit_minutes",
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
    "mesh.sequence",
)
# Version of the record. Version 2 had evaluations as {name: value}; since version 4
# the checkpoints have the fingerprints of their arrays.
_FORMAT = FORMAT_WITH_SUMS = 4


class TrainError(Exception):
    """Raised if a run cannot start or continue; one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Rewind:
    """A return to an earlier checkpoint.

    Attributes:
      step: step that the run had reached.
      to: step of the checkpoint that it returned to.
      reason: reason in words.
    """

    step: int
    to: int
    reason: str


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Everything that a run remembers beside its state.

    Attributes:
      config: config of the run, in values that JSON can store.
      versions: versions of packages when the run started.
      data_seed: seed of the order of samples before any rewind.
      codec: description of the codec; see `codecs.describe_codec`.
      origin: history of the model that the run started from, see
        `export.describe_origin`; None for random weights.
      manifest: all usable photographs of data.folder.
      validations: validations so far, by step.
      rewinds: rewinds so far.
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
        """Returns a copy with a further validation."""
        return dataclasses.replace(self, validations=(*self.validations, validation))

    def to_json(self) -> dict[str, Any]:
        """Converts to values that JSON can store; `from_json` inverts this."""
        values = dataclasses.asdict(self) | {"manifest": self.manifest.to_json()}
        return {"format": _FORMAT, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], workdir: Path) -> "RunRecord":
        """Reads the record of a checkpoint, also one of an earlier format.

        Args:
          values: JSON part of a checkpoint.
          workdir: folder of the run, for the error message.

        Raises:
          TrainError: the record has another version.
        """
        values = dict(values)
        found = values.pop("format", None)
        if found == 2:
            values["validations"] = _validations_of_format_2(values)
            del values["evaluations"]
        elif found in (3, _FORMAT):
            values["validations"] = tuple(
                Validation.from_json(validation) for validation in values["validations"]
            )
        else:
            raise TrainError(
                f"{workdir}: contains a run of another version of linearsr_jax; finish "
                "it with that version, or start anew in another --workdir with "
                "init_from"
            )
        values["manifest"] = Manifest.from_json(values["manifest"])
        values["rewinds"] = tuple(Rewind(**rewind) for rewind in values["rewinds"])
        return cls(**values)


def installed_versions() -> dict[str, str]:
    """Reads the versions of the packages that the bits of training depend on."""
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
        # Beside metrics, validations wrote only the gain and the flow loss.
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
    """Checks that a run is resumed with its own config, except for RESUMABLE fields.

    Args:
      record: record of the run.
      config: requested config, in values that JSON can store.
      workdir: folder of the run, for the error message.

    Raises:
      TrainError: a field differs; the message names the first one.
    """
    # For a field that was added later, the default is what runs did before.
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
            f"{workdir}: contains a run with {field}={before.get(field)}, not "
            f"{now.get(field)}; use another --workdir or the same config"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens {"a": {"b": 1}} to {"a.b": 1}; tuples become lists, as in JSON."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
