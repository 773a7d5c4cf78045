"""Measures what `PixelCodec.residual_std` should be, on nano's training data.

python experiments/202611_nano/residual_std.py PHOTOS/train
"""

import sys

import numpy as np

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.config.loading import load_config
from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.data import pipeline

BATCHES, BATCH_SIZE = 24, 32


def main(folder: str) -> None:
    """Prints the root mean square of HR - bicubic LR in [-1, 1] units."""
    data = load_config("configs/nano.py").data
    config = pipeline.PipelineConfig(
        crop_size=data.crop_size,
        scale_range=tuple(data.scale_range),
        degradations=data.degradations.to_dict(),
    )
    source = pipeline.open_source(folder, config)
    dataset = pipeline.make_dataset(source, config, seed=0, batch_size=BATCH_SIZE)
    powers = []
    for i in range(BATCHES):
        batch = {name: to_unit_range(value) for name, value in dataset[i].items()}
        latents = PixelCodec(1.0).encode(batch["image_hr"], batch["image_lr"])
        powers.append(float(np.mean(np.square(latents))))
    print(f"{np.sqrt(np.mean(powers)):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
