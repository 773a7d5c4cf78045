"""A training config as typed values, which `setup.make_settings` makes.

`config.defaults` documents the fields; the names of groups and fields are the same as
there. Groups that a single function takes (optimizer, loss, mesh) are not here, because
that function gets them as keyword arguments.
"""

import dataclasses
from typing import Any, Literal

from linearsr_jax.data.pipeline import PipelineConfig


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Settings of the data.

    Attributes:
      folder: photographs to train on.
      degradations: names of the degradations that samples draw from.
      pipeline: settings of the samples.
      workers, prefetch: settings of the loading, which do not change the samples.
    """

    folder: str
    degradations: tuple[str, ...]
    pipeline: PipelineConfig
    workers: int
    prefetch: int


@dataclasses.dataclass(frozen=True)
class ConditionSettings:
    """Settings of the conditions: what the model is told about a photograph."""

    kind: str
    file: str
    val_file: str
    max_tokens: int


@dataclasses.dataclass(frozen=True)
class ValidationSettings:
    """Settings of the validation."""

    folder: str
    holdout: float
    crop_size: int
    metrics: tuple[str, ...]
    steps: int
    every: int


@dataclasses.dataclass(frozen=True)
class EsgfSettings:
    """Settings of early-stopping guided fine-tuning."""

    stop_at_knee: bool
    patience: int
    knee_step: int
    candidates: int
    sharpness_every: int
    max_rewinds: int


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Settings of a run, for the loop and everything below it.

    Attributes:
      config: whole config in values that JSON can store, for the record of the run.
      profile_first, profile_count: see `profiler.ProfilerWindow`.
      tensorboard: writer of TensorBoard's files; see `writers.make_writer`.
      hang_exit_minutes: see `heartbeat.Heartbeat`; 0 for never.
      goodput_job: "" or see `cloud_goodput.open_cloud_goodput`.
    """

    config: dict[str, Any]
    preset: str
    codec_folder: str
    init_from: str
    expert_boundaries: tuple[float, ...]
    seed: int
    steps: int
    batch_size: int
    accumulation: int
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    keep_every: int
    profile_first: int
    profile_count: int
    tensorboard: Literal["tensorboardX", "clu"]
    goodput_job: str
    hang_exit_minutes: float
    data: DataSettings
    condition: ConditionSettings
    val: ValidationSettings
    esgf: EsgfSettings

    @property
    def experts(self) -> int:
        """Number of experts; 1 for the plain model."""
        return len(self.expert_boundaries) + 1
