"""LR-PSNR: whether an upscaled image still holds the image it was made from.

The output is reduced to the size of its low-resolution input and compared with that,

    LR-PSNR = 10 log10(1 / (mean((reduced - input)^2) + 1e-8)),   R, G, B in [0, 1]

the measure of consistency of the challenges "Learning the Super-Resolution Space"
(Lugmayr et al., NTIRE 2021 and 2022), where 45 dB counts as consistent. As there it
is taken over R, G and B: a shift of colour is a loss too. The reduction is Pillow's
bicubic, antialiased and rounded to 8 bits; theirs is MATLAB's, of the same kernel.
For an input that was made otherwise (by a camera, a JPEG) the true image itself has a
finite value, and nothing needs to exceed that.
"""

import numpy as np
from PIL import Image

from linearsr_jax.metrics.psnr_ssim import check_image


def lr_psnr(sr: np.ndarray, lr: np.ndarray) -> float:
    """PSNR of the reduced output against the input, in dB; higher is better.

    Args:
        sr: uint8 (sH, sW, 3), RGB: the image to judge; s is any whole number.
        lr: uint8 (H, W, 3), RGB: the image it was made from.

    Returns:
        LR-PSNR, at most 80 dB: equal images give exactly that, as in `psnr_y`.

    Raises:
        ValueError: an array is not as said above.
    """
    check_image("sr", sr)
    check_image("lr", lr)
    height, width = lr.shape[:2]
    scale = sr.shape[0] // height
    if scale < 1 or sr.shape[:2] != (scale * height, scale * width):
        raise ValueError(
            "LR-PSNR needs an output of a whole multiple of its input's sides, got "
            f"{sr.shape[0]}x{sr.shape[1]} for {height}x{width}"
        )
    reduced = Image.fromarray(sr).resize((width, height), Image.Resampling.BICUBIC)
    error = (np.asarray(reduced).astype(np.float64) - lr) / 255
    return float(10 * np.log10(1 / (np.mean(np.square(error)) + 1e-8)))
