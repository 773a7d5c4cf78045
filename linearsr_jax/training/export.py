"""Writes the result of a run as a model folder, with its history."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import PyTree
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained.model_card import model_card
from linearsr_jax.pretrained.model_folder import save_pretrained
from linearsr_jax.training.esgf_policy import Selection
from linearsr_jax.training.expert_axis import split
from linearsr_jax.training.hosts import is_first, together
from linearsr_jax.training.record import RunRecord
from linearsr_jax.training.sharding import fetched


def export_model(
    folder: Path,
    params: PyTree,
    *,
    record: RunRecord,
    codec: Codec,
    files: Mapping[str, Sequence[str]],
    selection: Selection,
) -> None:
    """Writes the averaged weights of a run as a model folder; call it on every process.

    Args:
      folder: see `pretrained.save_pretrained`.
      params: averaged weights of all experts, which are fetched to the host.
      record: record of the run.
      codec: codec of the run.
      files: names of the photographs trained on (files) and held out (held_out), and
        their tags (tags).
      selection: step of the weights, and why it was chosen.
    """
    params = fetched(params, only_first=True)

    def write():
        if is_first():
            _write_model(folder, params, record, codec, files, selection)

    together(write)


def _write_model(folder, params, record, codec, files, selection) -> None:
    config = copy.deepcopy(record.config)
    # Paths are private; the names of the photographs are below.
    config["data"]["folder"] = config["val"]["folder"] = ""
    config["codec_folder"] = ""
    config["condition"]["file"] = config["condition"]["val_file"] = ""
    config["init_from"] = Path(config["init_from"]).name
    evaluation = next(
        (
            {"step": validation.step, **validation.scores}
            for validation in record.validations
            if validation.step == selection.step
        ),
        None,
    )
    training = {
        "step": selection.step,
        "config": config,
        "versions": record.versions,
        **files,
        "evaluation": evaluation,
        "esgf": selection.to_json(),
        "rewinds": [dataclasses.asdict(rewind) for rewind in record.rewinds],
        "origin": record.origin,
    }
    # The model still knows the tags that it learned before this run.
    before = (record.origin or {}).get("tags", ())
    if tags := sorted({*files.get("tags", ()), *before}):
        training["tags"] = tags
    save_pretrained(
        folder,
        split(params),
        get_preset(config["preset"]),
        codec,
        boundaries=tuple(config["expert_boundaries"]),
        training=training,
        card=model_card(training),
    )


def describe_origin(training: dict[str, Any]) -> dict[str, Any]:
    """Extracts the history of a model, including that of its own origin.

    The history of a model that was not made by a run is empty.

    Args:
      training: record of the training, from the config of the model folder.
    """
    config = training.get("config", {})
    return {
        "degradations": config.get("data", {}).get("degradations"),
        "expert_boundaries": list(config.get("expert_boundaries", ())),
        "only": list(config.get("optimizer", {}).get("only", ())),
        "step": training.get("step"),
        "photographs": len(training.get("files", ())),
        "tags": list(training.get("tags", ())),
        "esgf": training.get("esgf"),
        "rewinds": training.get("rewinds", []),
        "origin": training.get("origin"),
    }
