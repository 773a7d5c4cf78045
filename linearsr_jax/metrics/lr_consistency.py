"""LR-PSNR: how well an upscaled image agrees with the image it was made from.

The output is reduced to the size of its low-resolution input and compared with it,

    LR-PSNR = 10 log10(1 / (mean((reduced - input)^2) + 1e-8)),   R, G, B in [0, 1]

the measure of consistency in the challenges "Learning the Super-Resolution Space"
(Lugmayr et al., NTIRE 2021 and 2022), where 45 dB counts as consistent. As there, it
is taken over R, G and B, so a shift of colour counts too. The reduction is Pillow's
bicubic, antialiased and rounded to 8 bits; theirs is MATLAB's with the same kernel.
If the input was made in another way (by a camera, or with JPEG), the true image itself
has a finite value, and an output need not exceed it.
"""

import numpy as np
from PIL import Image

from linearsr_jax.metrics.psnr_ssim import check_image


def lr_psnr(sr: np.ndarray, lr: np.ndarray) -> float:
    """Computes the PSNR in dB of the reduced output against the input.

    Higher is better.

    Args:
        sr: image to judge, uint8 (s H, s W, 3), RGB, with any whole number s.
        lr: image it was made from, uint8 (H, W, 3), RGB.

    Returns:
        LR-PSNR, at most 80 dB, which equal images reach; see `psnr_y`.

    Raises:
        ValueError: an array is not as above.
    """
    check_image("sr", sr)
    check_image("lr", lr)
    height, width = lr.shape[:2]
    scale = sr.shape[0] // height
    if scale < 1 or sr.shape[:2] != (scale * height, scale * width):
        raise ValueError(
            "LR-PSNR needs an output that is a whole multiple of its input, got "
            f"{sr.shape[0]}x{sr.shape[1]} for {height}x{width}"
        )
    reduced = Image.fromarray(sr).resize((width, height), Image.Resampling.BICUBIC)
    error = (np.asarray(reduced).astype(np.float64) - lr) / 255
    return float(10 * np.log10(1 / (np.mean(np.square(error)) + 1e-8)))
