"""What a model of one step trains with: nano's last stages, and fine-tuning from there.

Each function changes fields of a config of `defaults.default_config`.
"""

from ml_collections import ConfigDict


def train_one_step(config: ConfigDict) -> None:
    """Sets what the answer of a single step is trained with, by L1."""
    # Pure noise only: that is where a picture in one step comes from.
    config.mass_at_one = 1.0
    config.loss.flow = 0.0
    config.loss.below_sigma = 2.0
    config.loss.l1 = 8.0
    # 32 x 32 LR pixels: of smaller crops most pixels see the zeros beyond the border.
    config.data.crop_size = 128


def train_for_the_eye(config: ConfigDict) -> None:
    """Sets the same and the losses that ask for texture."""
    train_one_step(config)
    # Much noise and compression: with less of it noise was sharpened.
    config.data.degradations.update(
        {"bicubic": 0.15, "light": 0.15, "standard": 0.45, "camera": 0.25}
    )
    config.batch_size = 6
    config.loss.lpips = 14.0
    config.loss.adversarial = 0.8
    config.loss.half_at_noise = 6.0
    config.loss.grid = 30.0
    config.discriminator.learning_rate = 4e-4
