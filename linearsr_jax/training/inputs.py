"""Opens what a run works on: photographs, codec, initial model, and its record."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from linearsr_jax.codecs import Codec, describe_codec
from linearsr_jax.pretrained.model_folder import PretrainedModel
from linearsr_jax.training.batches import Photographs, open_photographs
from linearsr_jax.training.export import describe_origin
from linearsr_jax.training.hosts import check_equal, together
from linearsr_jax.training.initial_state import load_origin, load_run_codec
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.record import RunRecord, flatten, installed_versions
from linearsr_jax.training.sharding import replicated

logger = logging.getLogger(__name__)

_PLACES = ("data.folder", "val.folder", "codec_folder")


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """Inputs of a run.

    Attributes:
      record: record of the newest checkpoint with the present config, or a new one.
      origin: model to start from; None for random weights or a resumed run.
      codec: codec, with its weights on all devices.
      photographs: photographs to train and to validate on.
    """

    record: RunRecord
    origin: PretrainedModel | None
    codec: Codec
    photographs: Photographs


def open_inputs(parts: RunParts, earlier: RunRecord | None) -> RunInputs:
    """Opens the inputs of a new run or of a resumed one.

    Args:
      parts: parts of the run.
      earlier: record of a resumed run; None for a new one.

    Raises:
      TrainError: see `load_origin`; or the hosts differ in photographs, configs,
        packages, codec or initial model.
      OSError, ValueError: see `open_photographs`.
    """
    settings = parts.settings
    # A resumed run has its weights; the model it started from may be gone.
    origin = None if earlier else load_origin(settings, parts.preset)
    codec = load_run_codec(
        settings, parts.preset, origin, earlier.codec if earlier else None
    )
    photographs = together(
        lambda: open_photographs(
            settings, parts.preset, earlier.manifest if earlier else None
        )
    )
    versions = installed_versions()
    check_equal(
        {
            "photographs": together(photographs.describe),
            "packages": ", ".join(" ".join(pair) for pair in versions.items()),
            "codecs": _sum_of(describe_codec(codec)),
            "models to start from": _describe_weights(origin),
        }
    )
    if earlier and earlier.versions != versions:
        logger.info(
            "the run began with other packages, so later steps may differ in the last "
            "digits: %s",
            ", ".join(
                f"{name} {earlier.versions.get(name)}, now {version}"
                for name, version in versions.items()
                if earlier.versions.get(name) != version
            ),
        )
    now: dict[str, Any] = {
        "config": settings.config,
        "codec": describe_codec(codec),
        "manifest": photographs.manifest,
    }
    if earlier:
        record = dataclasses.replace(earlier, **now)
    else:
        record = RunRecord(
            **now,
            versions=versions,
            data_seed=settings.seed,
            origin=describe_origin(origin.training) if origin else None,
        )
    codec = jax.device_put(codec, replicated(parts.mesh))
    return RunInputs(record, origin, codec, photographs)


def check_hosts_agree(config: Mapping[str, Any]) -> None:
    """Checks that all hosts have the same config, but for the places of files.

    Raises:
      TrainError: they differ.
    """
    check_equal({"configs": _sum_of(config)})


def has_same_fields(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Says whether two configs differ in nothing but the places of files."""
    return _sum_of(config) == _sum_of(other)


def _describe_weights(origin: PretrainedModel | None) -> str:
    # Each host puts its own copy on its devices.
    if origin is None or jax.process_count() == 1:
        return "none"
    digest = hashlib.sha256()
    for array in jax.tree.leaves(origin.experts):
        digest.update(np.asarray(array).tobytes())
    return f"SHA-256 {digest.hexdigest()[:12]}"


def _sum_of(config: Mapping[str, Any]) -> str:
    # Hosts may have their copies of the same files in different places.
    same = {k: v for k, v in flatten(config).items() if k not in _PLACES}
    text = json.dumps(same, sort_keys=True)
    return f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
