"""NIQE: how far an image's local statistics are from those of good photographs.

Mittal et al., "Making a 'Completely Blind' Image Quality Analyzer" (IEEE Signal
Processing Letters 20(3), 2013). No reference image is needed. The luma is brought
to local mean 0 and contrast 1 (eq. 1); the values of each 96x96 block, and the
products of neighbours in four directions, are described by asymmetric generalized
Gaussians (eq. 7, 8), at full and at half size: 36 numbers a block. With mean and
covariance (m1, S1) of pristine photographs and (m2, S2) of the image's blocks,

    NIQE = sqrt((m1 - m2)^T ((S1 + S2) / 2)^-1 (m1 - m2))        (eq. 10)

The pristine model is package data, weights/niqe_pristine.safetensors. Its source and
licences are in weights/NIQE_LICENSE.txt;
experiments/shipped_weights/niqe_pristine.py made the file.

The tables of generative super-resolution come from `niqe` of pyiqa 0.1.10 on a GPU.
Their digits depend on two accidents, which we follow: see `to_luma` and
`_gaussian_window`. Unlike in the paper all blocks count, not only the sharp ones, as in
the authors' released code for the image to judge. Computed in numpy and float64.
"""

import functools
import math
from collections.abc import Callable
from importlib import resources

import numpy as np
from safetensors.numpy import load

from linearsr_jax.metrics.psnr_ssim import check_image

WEIGHTS_FILE = "niqe_pristine.safetensors"
PARAMETER_SHAPES = {"mean": (36,), "covariance": (36, 36)}
BLOCK = 96

# Neighbours whose products are described: right, below, and the two diagonals.
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def _gaussian_window() -> np.ndarray:
    """Computes the 7x7 window with sigma 7/6; its sum is 1 up to float32 rounding.

    In flat areas the normalized luma is 0 up to the rounding of the window's sum, and
    the fit of eq. 7 counts negative and positive values, so the sign of that rounding
    shows. The published values come from a float32 window.
    """
    offsets = np.arange(-3, 4)
    factor = np.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    window = np.outer(factor, factor)
    return (window / window.sum()).astype(np.float32).astype(np.float64)


_WINDOW = _gaussian_window()

# Halving: the bicubic kernel (a = -1/2) stretched by two, at its eight taps.
_TAPS = np.abs(np.arange(8) - 3.5) / 2
_HALVING = np.where(
    _TAPS <= 1,
    1.5 * _TAPS**3 - 2.5 * _TAPS**2 + 1,
    -0.5 * _TAPS**3 + 2.5 * _TAPS**2 - 4 * _TAPS + 2,
)
_HALVING = _HALVING / _HALVING.sum()


@functools.cache
def load_niqe() -> Callable[[np.ndarray], float]:
    """Loads the pristine model, once, and makes the metric.

    Returns:
        A function (sr) -> NIQE >= 0; lower is better, and photographs have about 3 to
        6. sr is uint8 (H, W, 3), RGB, at least 96 pixels on each side. Pixels to the
        right of and below the last whole 96x96 block do not count. The function raises
        ValueError for other arrays, and if fewer than two blocks have any texture,
        because their covariance is then undefined.

    Raises:
        ValueError: the installed weights file has missing or unknown tensors.
    """
    params = load_parameters()

    def niqe(sr: np.ndarray) -> float:
        check_image("sr", sr)
        features = block_features(sr)
        # A block without positive or without negative values cannot be fitted.
        is_fitted = np.isfinite(features).all(axis=1)
        if is_fitted.sum() < 2:
            raise ValueError(
                f"NIQE needs two {BLOCK}x{BLOCK} blocks with texture; this image has "
                f"{is_fitted.sum()} of {len(features)}"
            )
        mean = np.nanmean(features, axis=0)
        covariance = np.cov(features[is_fitted], rowvar=False)
        difference = params["mean"] - mean
        inverse = np.linalg.pinv((params["covariance"] + covariance) / 2)
        return math.sqrt(difference @ inverse @ difference)

    return niqe


def block_features(image: np.ndarray) -> np.ndarray:
    """Computes the 36 features of each whole block.

    Args:
        image: uint8 (H, W, 3), RGB, at least 96 pixels on each side.

    Returns:
        float64 (blocks, 36), 18 features at full and 18 at half size. They are NaN
        where a block has no positive or no negative values (flat areas).

    Raises:
        ValueError: the image is too small.
    """
    rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    if not rows or not columns:
        raise ValueError(
            f"NIQE needs both sides >= {BLOCK} pixels, "
            f"got {image.shape[0]}x{image.shape[1]}"
        )
    luma = to_luma(image[: rows * BLOCK, : columns * BLOCK])
    features = []
    for side in (BLOCK, BLOCK // 2):
        blocks = normalize(luma).reshape(rows, side, columns, side).swapaxes(1, 2)
        features.append(_features(blocks.reshape(rows * columns, side, side)))
        luma = halve(luma)
    return np.concatenate(features, axis=1)


def to_luma(image: np.ndarray) -> np.ndarray:
    """Computes full-range luma of BT.601 in levels 0..255: (H, W, 3) to (H, W).

    One pixel in a thousand lies between two levels (299 R + 587 G + 114 B = 500 mod
    1000), and rounding these the other way moves NIQE by up to 0.03 where much of
    the image is flat. The published values were computed in float32 on a GPU: times
    1/255, then fused multiply-adds over R, G and B. A product of two float32 is exact
    in float64, so rounding once to float32 after the sum is a fused multiply-add.
    """
    scaled = image.astype(np.float32) * np.float32(1 / 255)
    weights = np.array([0.299, 0.587, 0.114], np.float32).astype(np.float64)
    luma = np.zeros(image.shape[:2], np.float32)
    for channel, weight in enumerate(weights):
        luma = (scaled[..., channel] * weight + luma).astype(np.float32)
    return np.round(luma * np.float32(255)).astype(np.float64)


def normalize(luma: np.ndarray) -> np.ndarray:
    """Normalizes to local mean 0 and, in texture, deviation 1 (eq. 1)."""
    mean = _blur(luma)
    deviation = np.sqrt(np.abs(_blur(luma * luma) - mean * mean))
    return (luma - mean) / (deviation + 1)


def _blur(luma: np.ndarray) -> np.ndarray:
    """Averages under the window, with repeated edges: (H, W) to (H, W)."""
    height, width = luma.shape
    padded = np.pad(luma, 3, mode="edge")
    return sum(
        _WINDOW[i, j] * padded[i : i + height, j : j + width]
        for i in range(7)
        for j in range(7)
    )


def halve(luma: np.ndarray) -> np.ndarray:
    """Halves an even (H, W) by antialiased bicubic, with mirrored edges."""
    for axis in (0, 1):
        lines = np.moveaxis(luma, axis, 0)
        padded = np.pad(lines, ((3, 3), (0, 0)), mode="symmetric")
        halved = sum(
            weight * padded[tap : tap + len(lines) : 2]
            for tap, weight in enumerate(_HALVING)
        )
        luma = np.moveaxis(halved, 0, axis)
    return luma


def _features(blocks: np.ndarray) -> np.ndarray:
    """Computes the 18 features of a scale: (blocks, side, side) to (blocks, 18)."""
    alpha, _, left, right = fit_aggd(blocks)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        # Neighbours wrap around the edge of the block, as in the released code.
        features += fit_aggd(blocks * np.roll(blocks, shift, axis=(1, 2)))
    return np.stack(features, axis=1)


def fit_aggd(blocks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fits asymmetric generalized Gaussians by moments (eq. 7, 8).

    Args:
        blocks: float64 (blocks, side, side).

    Returns:
        The shape alpha in [0.2, 10] (2 is a Gaussian), the mean, and the scales beta
        of the left and right sides, each (blocks,). All but alpha are NaN where a side
        has no values.
    """
    squares = blocks * blocks

    def deviation(is_side: np.ndarray) -> np.ndarray:
        count = is_side.sum(axis=(1, 2))
        total = (squares * is_side).sum(axis=(1, 2))
        return np.sqrt(total / np.where(count, count, np.nan))

    left, right = deviation(blocks < 0), deviation(blocks > 0)
    power = squares.mean(axis=(1, 2))
    ratio = np.abs(blocks).mean(axis=(1, 2)) ** 2 / np.where(power, power, np.nan)
    skew = left / right
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    alphas, expected_ratio, scale_factor, mean_factor = _gamma_table()
    # Take the nearest entry of the rising table. Where nothing can be fitted take the
    # first, as the released code does: such an alpha still enters the mean.
    between = (expected_ratio[1:] + expected_ratio[:-1]) / 2
    index = np.where(np.isnan(ratio), 0, np.searchsorted(between, ratio))
    left, right = left * scale_factor[index], right * scale_factor[index]
    return alphas[index], (right - left) * mean_factor[index], left, right


@functools.cache
def _gamma_table() -> tuple[np.ndarray, ...]:
    """Tabulates, by alpha, (E|x|)^2 / E x^2, beta / deviation, and mean / beta."""
    alphas = np.arange(200, 10001) / 1000
    log_1, log_2, log_3 = (
        np.array([math.lgamma(k / alpha) for alpha in alphas]) for k in (1, 2, 3)
    )
    return (
        alphas,
        np.exp(2 * log_2 - log_1 - log_3),
        np.exp((log_1 - log_3) / 2),
        np.exp(log_2 - log_1),
    )


def load_parameters() -> dict[str, np.ndarray]:
    """Reads the statistics of pristine photographs that the package has."""
    file = resources.files("linearsr_jax") / "weights" / WEIGHTS_FILE
    tensors = load(file.read_bytes())
    if {name: tensor.shape for name, tensor in tensors.items()} != PARAMETER_SHAPES:
        raise ValueError(
            f"{file}: must contain {PARAMETER_SHAPES}; install the package again"
        )
    return tensors
