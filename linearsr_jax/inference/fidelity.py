"""Corrections of an output by its input: its colours, and exact agreement with it."""

import numpy as np
import PIL.Image

from linearsr_jax.core.array_types import Float
from linearsr_jax.inference.sizes import resize

_BICUBIC = PIL.Image.Resampling.BICUBIC
# Levels of the wavelet; the coarsest filter reaches 2**5 - 1 pixels to each side.
_LEVELS = 5
# After so many rounds LR-PSNR no longer rises by more than 0.1 dB.
_ROUNDS = 12


def fix_colors(
    output: Float[np.ndarray, "H W 3"], given: Float[np.ndarray, "y x 3"]
) -> Float[np.ndarray, "H W 3"]:
    """Gives an output the coarse colours of its input and keeps its detail.

    The wavelet colour fix of StableSR (Wang et al., arXiv 2305.07015): the low
    frequencies of the output are replaced by those of the enlarged input.

    Args:
      output: about [-1, 1].
      given: the input, in [-1, 1].
    """
    enlarged = resize(given, output.shape[1::-1], _BICUBIC)
    return output + low_pass(enlarged - output)


def make_consistent(
    output: Float[np.ndarray, "H W 3"], given: Float[np.ndarray, "y x 3"]
) -> Float[np.ndarray, "H W 3"]:
    """Changes an output so that it becomes its input when it is reduced.

    Iterative back-projection (Irani and Peleg 1991): what the reduced output lacks is
    enlarged and added, and levels outside the range are cut off, some rounds long. Both
    ways are Pillow's bicubic filter, by which `metrics.lr_consistency` judges.

    Args:
      output: about [-1, 1].
      given: the input, in [-1, 1].

    Returns:
      The output in [-1, 1].
    """
    small, large = given.shape[1::-1], output.shape[1::-1]
    output = np.clip(output, -1, 1)
    for _ in range(_ROUNDS):
        missing = given - resize(output, small, _BICUBIC)
        output += resize(missing, large, _BICUBIC)
        np.clip(output, -1, 1, out=output)
    return output


def low_pass(image: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W C"]:
    """Filters with [1 2 1] / 4 in both directions, with gaps of 1, 2, ... 16 pixels."""
    for level in range(_LEVELS):
        for axis in (0, 1):
            image = _blur(image, 2**level, axis)
    return image


def _blur(image, gap, axis):
    size = image.shape[axis]
    positions = np.arange(size)
    before, after = (
        np.take(image, np.clip(positions + side * gap, 0, size - 1), axis)
        for side in (-1, 1)
    )
    return image / 2 + (before + after) / 4
