"""LinearSR's third stage: fine-tunes the experts gently; see pretrain.py."""

from configs import experts


def get_config(preset: str = "nano"):
    """Makes the second stage's config, with a fifth of the learning rate, decaying.

    The stage ends with the decay and does not stop at a knee. The paper says only that
    this stage is supervised fine-tuning.
    """
    config = experts.get_config(preset)
    config.steps //= 5
    config.optimizer.learning_rate /= 5
    config.optimizer.descent = "cosine"
    config.optimizer.decay_steps = config.steps - config.optimizer.warmup_steps
    config.esgf.stop_at_knee = False
    return config
