"""The grid that a network leaves on its output, in flat areas, in 8-bit levels.

A network that makes each 4x4 pixels of its output from one pixel of its input can
leave a pattern that repeats with its input's grid, and one that is trained with a
perceptual loss alone does: LPIPS does not see it, people do. The pattern's spectrum
is a comb, lines at periods of 4, 2 and 4/3 pixels along either axis; texture and
noise have no lines. So in each 32x32 block of luma, with a Hann window, the energy of
the comb's fifteen lines (the mean left out) counts as far as it exceeds the energy
around them,

    E = sum over lines of (P(line) - mean of P two and three bins away)

with P the power spectrum, averaged over the flattest quarter of the blocks: where the
input has the least contrast a grid is seen first. The value is sqrt(E), the grid's
root mean square in levels of luma. Own definition; a sine of period 4 and amplitude a
has a / sqrt(2). Bicubic has about 0.03 on photographs, cameras' own pictures as well;
0.3 is seen at 2x magnification.
"""

import numpy as np

from linearsr_jax.metrics.psnr_ssim import check_image

SCALE = 4
BLOCK = 32

# As NIQE's: the full-range luma.
LUMA = np.array([0.299, 0.587, 0.114])
# Bins between two lines of the comb.
_SPACING = BLOCK // SCALE


def _neighbours() -> list[tuple[int, int]]:
    """Offsets whose power stands for the line's surroundings.

    A Hann window spreads a line over the bins next to it, so those are left out.
    """
    near = range(-3, 4)
    return [(i, j) for i in near for j in near if max(abs(i), abs(j)) >= 2]


def _window() -> np.ndarray:
    """The periodic Hann window in two dimensions, of mean 1.

    Of mean 1, because a line's own bin then has the whole energy of its sine.
    """
    factor = 1 - np.cos(2 * np.pi * np.arange(BLOCK) / BLOCK)
    return np.outer(factor, factor)


_LINES = [
    (i, j)
    for i in range(0, BLOCK, _SPACING)
    for j in range(0, BLOCK, _SPACING)
    if (i, j) != (0, 0)
]
_NEIGHBOURS = _neighbours()
_WINDOW = _window()


def grid_energy(sr: np.ndarray, lr: np.ndarray) -> float:
    """Measures the grid in the flattest quarter of an upscaled image.

    Args:
        sr: uint8 (4H, 4W, 3), RGB: the image to judge.
        lr: uint8 (H, W, 3), RGB: the image it was made from, H and W at least 8; what
            is right of and below the last whole block of 8x8 does not count.

    Returns:
        The grid's root mean square in levels, >= 0, lower is better.

    Raises:
        ValueError: an array is not as said above.
    """
    check_image("sr", sr)
    check_image("lr", lr)
    height, width = lr.shape[:2]
    if sr.shape[:2] != (SCALE * height, SCALE * width) or min(height, width) < _SPACING:
        raise ValueError(
            f"grid_energy needs an output of {SCALE} times its input's sides, each of "
            f"at least {_SPACING} pixels; got {sr.shape[0]}x{sr.shape[1]} for "
            f"{height}x{width}"
        )
    contrast = split_squares(lr @ LUMA, _SPACING).std(axis=(1, 2))
    count = max(1, contrast.size // 4)
    # Stable: of equally flat blocks the first ones, on every machine.
    flattest = np.argsort(contrast, kind="stable")[:count]
    blocks = split_squares(sr @ LUMA, BLOCK)[flattest]
    blocks = blocks - blocks.mean(axis=(1, 2), keepdims=True)
    spectra = np.abs(np.fft.fft2(blocks * _WINDOW)) ** 2 / BLOCK**4
    power = spectra.mean(axis=0)
    excess = 0.0
    for i, j in _LINES:
        around = [power[(i + a) % BLOCK, (j + b) % BLOCK] for a, b in _NEIGHBOURS]
        excess += power[i, j] - np.mean(around)
    return float(np.sqrt(max(excess, 0.0)))


def split_squares(image: np.ndarray, side: int) -> np.ndarray:
    """Cuts (H, W) into whole squares: (count, side, side), row by row."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    image = image[: rows * side, : columns * side]
    squares = image.reshape(rows, side, columns, side).transpose(0, 2, 1, 3)
    return squares.reshape(-1, side, side)
