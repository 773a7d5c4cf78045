"""What a training config names, built: network, optimiser, loss, mesh."""

import dataclasses

import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset, get_preset
from linearsr_jax.training import batches as train_data
from linearsr_jax.training import optimizers as optim
from linearsr_jax.training import sharding
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.record import check_batch, check_config


@dataclasses.dataclass(frozen=True)
class RunParts:
    """The parts of a run that hold no state.

    Attributes:
      preset, model: what is trained.
      boundaries: between the experts.
      optimizer, schedule: see `optim.make_optimizer`.
      loss: that it is trained by.
      twice_differentiable_loss: the same of the plain implementation, for Hessians.
      mesh: of all devices.
    """

    preset: Preset
    model: LinearDiT
    boundaries: tuple[float, ...]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loss: Loss
    twice_differentiable_loss: Loss
    mesh: Mesh

    @property
    def experts(self) -> int:
        """How many there are; 1 for the plain model."""
        return len(self.boundaries) + 1


def make_parts(config: ConfigDict) -> RunParts:
    """Builds them, and refuses what no run can work with.

    Raises:
      TrainError, ValueError: a bad field.
    """
    check_config(config)
    preset = get_preset(config.preset)
    how = {
        "dtype": jnp.dtype(config.dtype),
        "remat": config.remat,
        "scan_unroll": config.scan_unroll,
    }
    model = preset.make_model(**how)
    boundaries = tuple(config.expert_boundaries)

    def make_loss(model):
        return Loss(
            model,
            preset,
            mass_at_one=config.mass_at_one,
            boundaries=boundaries,
            **config.loss.to_dict(),
        )

    optimizer, schedule = optim.make_optimizer(
        steps=config.steps, **config.optimizer.to_dict()
    )
    mesh = sharding.make_mesh(
        config.mesh.data, config.mesh.fsdp, experts=config.mesh.experts
    )
    check_batch(config, mesh)
    train_data.make_pipeline_config(config)
    return RunParts(
        preset=preset,
        model=model,
        boundaries=boundaries,
        optimizer=optimizer,
        schedule=schedule,
        loss=make_loss(model),
        twice_differentiable_loss=make_loss(
            preset.make_model(**how, implementation="reference")
        ),
        mesh=mesh,
    )
