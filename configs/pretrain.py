"""LinearSR's first stage: trains one model for all noise levels, up to its knee.

    linearsr train --workdir runs/mine --override data.folder=PHOTOS val.holdout=0.1 \
        --config configs/pretrain.py:nano configs/experts.py:nano configs/sft.py:nano
"""

from linearsr_jax.config.defaults import default_config
from linearsr_jax.core.scale import SCALE
from linearsr_jax.models.presets import get_preset


def get_config(preset: str = "nano"):
    """Makes a config for a preset.

    The learning rate is constant, because a decay would end every curve on a plateau.
    """
    sizes = get_preset(preset)
    config = default_config()
    config.preset = preset
    if preset == "small":
        config.batch_size = 64
    # Every codec gets the same number of latent pixels.
    config.data.crop_size *= sizes.codec_factor // SCALE
    config.val.crop_size *= sizes.codec_factor // SCALE
    config.val.every = 500
    config.checkpoint_every = 500
    config.optimizer.descent = "constant"
    config.optimizer.decay_steps = 0
    config.esgf.stop_at_knee = True
    config.scan_unroll = min(sizes.depth, 4)
    if sizes.codec != "pixel":
        # The paper gives none; SANA has 64 to 128 per GPU. Powers of two split over
        # slices and clusters of any size.
        config.batch_size = 512
        # From SANA; the paper's knee is at 48,000 steps, with evaluations every 4,000.
        config.optimizer.name = "came"
        config.optimizer.learning_rate = 1e-4
        config.optimizer.warmup_steps = 2_000
        config.optimizer.clip_norm = 0.1
        config.val.every = config.checkpoint_every = 4_000
        config.steps = 400_000
        config.dtype = "bfloat16"
        config.remat = "blocks"
        config.scan_unroll = 1
        # Velocity prediction uses the paper's loss unchanged.
        config.mass_at_one = 0.0
        config.val.steps = 20
    return config
