"""Opens what a run works on: photographs, codec, initial model, and its record."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from linearsr_jax.codecs import Codec, describe_codec
from linearsr_jax.pretrained.model_folder import PretrainedModel
from linearsr_jax.training.batches import Photographs, open_photographs
from linearsr_jax.training.checkpoints import Checkpointer
from linearsr_jax.training.export import describe_origin
from linearsr_jax.training.initial_state import load_origin, load_run_codec
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.record import (
    RunRecord,
    check_same_config,
    installed_versions,
)
from linearsr_jax.training.sharding import replicated


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


def open_inputs(
    parts: RunParts, checkpointer: Checkpointer, workdir: Path
) -> RunInputs:
    """Opens the inputs of a new run or of a resumed one.

    Args:
      parts: parts of the run.
      checkpointer: checkpoints of the run.
      workdir: folder of the run, for error messages.

    Raises:
      TrainError: the workdir contains a run with another config or version.
      OSError, ValueError: see `open_photographs`.
    """
    settings, start = parts.settings, checkpointer.latest_step
    if start is None:
        earlier, origin = None, load_origin(settings, parts.preset)
    else:
        # A resumed run has its weights; the model it started from may be gone.
        earlier, origin = checkpointer.restore_record(start), None
        check_same_config(earlier, settings.config, workdir)
    codec = load_run_codec(
        settings, parts.preset, origin, earlier.codec if earlier else None
    )
    photographs = open_photographs(
        settings, parts.preset, earlier.manifest if earlier else None
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
            versions=installed_versions(),
            data_seed=settings.seed,
            origin=describe_origin(origin.training) if origin else None,
        )
    codec = jax.device_put(codec, replicated(parts.mesh))
    return RunInputs(record, origin, codec, photographs)
