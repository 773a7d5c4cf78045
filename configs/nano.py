"""Trains nano by the recipe as it stands, in four stages.

    linearsr train --config configs/nano.py:flow --workdir runs/flow --override ...
    linearsr train --config configs/nano.py:mean --workdir runs/mean \
        --override init_from=runs/flow/model ...
    linearsr train --config configs/nano.py:perceptual --workdir runs/perceptual \
        --override init_from=runs/mean/model ...
    linearsr train --config configs/nano.py:judges --workdir runs/judges \
        --override init_from=runs/before ...

each with data.folder=PHOTOS val.folder=VALIDATION_PHOTOS. The ends of the fidelity
slider are mixtures of the weights of these stages. runs/before is such a mixture, which
experiments/202611_picture/release.py makes of the models of the first three; train.sh
beside it has the whole recipe, README.md the results.

The weights that ship with the package went a longer way, because the recipe was found
while they were trained: the card of nano lists its ten stages.
"""

from linearsr_jax.config.defaults import default_config
from linearsr_jax.config.one_step import train_for_the_eye, train_one_step

STAGES = ("flow", "mean", "perceptual", "judges")


def get_config(stage: str = "flow"):
    """Makes the config of a stage.

    Args:
      stage: "flow" trains all noise levels, "mean" the answer of one step for PSNR,
        without the input's noise, "perceptual" the answer of one step for the eye, and
        "judges" the same by two networks' LPIPS, which needs the extra "judges", and
        towards sharpened photographs where the input is noisy.

    Raises:
      ValueError: another stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} must be one of {', '.join(STAGES)}")
    config = default_config()
    config.preset = "nano"
    config.scan_unroll = 4  # a quarter faster on CPU
    if stage == "flow":
        config.steps = 11_200
        config.optimizer.learning_rate = 2e-3
        config.optimizer.decay_steps = 3_000
        return config
    if stage == "mean":
        train_one_step(config)
        # As much noise and compression as for the eye.
        degradations = config.data.degradations
        degradations.standard, degradations.camera, degradations.light = 0.5, 0.25, 0.15
        degradations.bicubic = 0.1
        config.steps = 2_000
        config.optimizer.learning_rate = 1e-3
    else:
        train_for_the_eye(config)
        config.steps = 3_000
        config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 1_200
    config.val.every = 4_000
    config.checkpoint_every = 250
    if stage == "judges":
        config.loss.l1 = 6.0
        config.loss.sharpen = 0.8
        config.loss.lpips = 6.0
        config.loss.lpips_vgg = 36.0
    return config
