"""Trains the smallest preset for a few steps, to check that everything runs.

    linearsr train --config configs/debug.py --workdir runs/debug \
        --override data.folder=PHOTOS
"""

from linearsr_jax.config.defaults import default_config


def get_config(arg: str = ""):
    """Makes a config that runs for seconds on two CPU cores."""
    if arg:
        raise ValueError(f"configs/debug.py takes no argument, got {arg!r}")
    config = default_config()
    config.preset = "debug"
    config.steps = 20
    config.batch_size = 8
    config.data.crop_size = 32
    config.optimizer.warmup_steps = 2
    config.optimizer.decay_steps = 8
    config.log_every = 5
    config.checkpoint_every = 10
    config.val.crop_size = 64
    config.val.every = 10
    return config
