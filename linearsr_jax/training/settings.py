"""A training config as typed values; `setup.make_settings` makes them of a ConfigDict.

What the fields mean, and their defaults, is in `config.defaults`: a group of settings
has the names of the group of the config. The groups that a single function takes
(optimizer, loss, mesh) are not here: it gets them as keywords.
"""

import dataclasses
from typing import Any, Literal

from linearsr_jax.data.pipeline import PipelineConfig


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where the photographs are, and how they become batches.

    Attributes:
      folder: photographs to train on.
      degradation: name of the one beside bicubic.
      pipeline: how a photograph becomes a sample.
      workers, prefetch: of the loading; they do not change the samples.
    """

    folder: str
    degradation: str
    pipeline: PipelineConfig
    workers: int
    prefetch: int


@dataclasses.dataclass(frozen=True)
class ConditionSettings:
    """What training says of a photograph beside its pixels."""

    kind: str
    file: str
    val_file: str
    max_tokens: int


@dataclasses.dataclass(frozen=True)
class ValidationSettings:
    """On what, by what and when a run is validated."""

    folder: str
    holdout: float
    crop_size: int
    metrics: tuple[str, ...]
    steps: int
    every: int


@dataclasses.dataclass(frozen=True)
class EsgfSettings:
    """When a run ends at its knee, and what it keeps for that."""

    stop_at_knee: bool
    patience: int
    knee_step: int
    candidates: int
    sharpness_every: int
    max_rewinds: int


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that the loop and what it calls have to know of a config.

    Attributes:
      config: the whole config as JSON's types, for the run's record.
      profile_first, profile_count: see `profiler.ProfilerWindow`.
      tensorboard: who writes its files; see `writers.make_writer`.
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
    profile_first: int
    profile_count: int
    tensorboard: Literal["tensorboardX", "clu"]
    data: DataSettings
    condition: ConditionSettings
    val: ValidationSettings
    esgf: EsgfSettings

    @property
    def experts(self) -> int:
        """How many experts there are; 1 for the plain model."""
        return len(self.expert_boundaries) + 1
