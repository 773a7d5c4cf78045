"""LinearSR's second stage: four experts, one per range of noise; see pretrain.py."""

from configs import pretrain
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES


def get_config(preset: str = "nano"):
    """Makes the first stage's config with experts and half the learning rate: ours."""
    config = pretrain.get_config(preset)
    config.expert_boundaries = EXPERT_BOUNDARIES
    config.optimizer.learning_rate /= 2
    # Enough steps for every expert to take part in validation.
    config.val.steps = max(config.val.steps, len(EXPERT_BOUNDARIES) + 1)
    return config
