"""What a run works on: photographs, codec, where it starts, and its record of these."""

import dataclasses
from pathlib import Path

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
    """What a run works on.

    Attributes:
      record: of the newest checkpoint, with the config of now; or a new one.
      origin: the model to start from; None for random weights or a run that goes on.
      codec: its weights on all devices.
      photographs: to train and to validate on.
    """

    record: RunRecord
    origin: PretrainedModel | None
    codec: Codec
    photographs: Photographs


def open_inputs(
    parts: RunParts, checkpointer: Checkpointer, workdir: Path
) -> RunInputs:
    """Opens what a new run works on, or one that goes on.

    Args:
      parts: what is trained.
      checkpointer: of the run.
      workdir: named in errors.

    Raises:
      TrainError: the workdir holds a run of another config or version.
      OSError, ValueError: see `open_photographs`.
    """
    settings, start = parts.settings, checkpointer.latest_step
    if start is None:
        earlier, origin = None, load_origin(settings, parts.preset)
    else:
        # A run that goes on has its weights; what it started from may be gone.
        earlier, origin = checkpointer.restore_record(start), None
        check_same_config(earlier, settings.config, workdir)
    codec = load_run_codec(settings, parts.preset, origin, earlier and earlier.codec)
    photographs = open_photographs(settings, parts.preset, earlier and earlier.manifest)
    now = {
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
            origin=origin and describe_origin(origin.training),
        )
    codec = jax.device_put(codec, replicated(parts.mesh))
    return RunInputs(record, origin, codec, photographs)
