"""The parts of a run that hold no state; `setup.make_parts` builds them."""

import dataclasses

import optax
from jax.sharding import Mesh

from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.settings import RunSettings


@dataclasses.dataclass(frozen=True)
class RunParts:
    """What a config names, built.

    Attributes:
      settings: the config as typed values.
      preset, model: what is trained.
      optimizer, schedule: see `optimizers.make_optimizer`.
      loss: what is minimised.
      twice_differentiable_loss: the same of the plain implementation, for Hessians.
      mesh: of all devices.
    """

    settings: RunSettings
    preset: Preset
    model: LinearDiT
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loss: Loss
    twice_differentiable_loss: Loss
    mesh: Mesh
