"""LinearSR's third stage: fine-tunes the experts with small steps; see pretrain.py."""

from configs import experts


def get_config(preset: str = "nano"):
    """The second stage's config, the learning rate a fifth and falling.

    It does not stop at a knee: the descent is where it ends. The paper says only that
    this stage is supervised fine-tuning.
    """
    config = experts.get_config(preset)
    config.steps //= 5
    config.optimizer.learning_rate /= 5
    config.optimizer.descent = "cosine"
    config.optimizer.decay_steps = config.steps - config.optimizer.warmup_steps
    config.esgf.stop_at_knee = False
    return config
