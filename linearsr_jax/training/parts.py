"""The stateless parts of a run, which `setup.make_parts` builds."""

import dataclasses

import optax
from jax.sharding import Mesh

from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.settings import RunSettings


@dataclasses.dataclass(frozen=True)
class RunParts:
    """Everything that a config names, built.

    Attributes:
      settings: config as typed values.
      preset, model: network to train.
      optimizer, schedule: see `optimizers.make_optimizer`.
      loss: loss to minimise.
      twice_differentiable_loss: the same loss in plain JAX, for Hessians.
      mesh: mesh of all devices.
    """

    settings: RunSettings
    preset: Preset
    model: LinearDiT
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loss: Loss
    twice_differentiable_loss: Loss
    mesh: Mesh
