"""LinearSR's second stage: four experts, each for its noise levels; see pretrain.py."""

from configs import pretrain
from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES


def get_config(preset: str = "nano"):
    """The first stage's config with the experts; half its learning rate is ours."""
    config = pretrain.get_config(preset)
    config.expert_boundaries = EXPERT_BOUNDARIES
    config.optimizer.learning_rate /= 2
    # Every expert has a part in the validation.
    config.val.steps = max(config.val.steps, len(EXPERT_BOUNDARIES) + 1)
    return config
