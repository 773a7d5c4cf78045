"""NIQE: how far an image's local statistics are from those of good photographs.

Mittal et al., "Making a 'Completely Blind' Image Quality Analyzer" (IEEE Signal
Processing Letters 20(3), 2013). No reference image is needed. The luma is brought
to local mean 0 and contrast 1 (eq. 1); the values of each 96x96 block, and the
products of neighbours in four directions, are described by asymmetric generalized
Gaussians (eq. 7, 8), at full and at half size: 36 numbers a block. With mean and
covariance (m1, S1) of pristine photographs and (m2, S2) of the image's blocks,

    NIQE = sqrt((m1 - m2)^T ((S1 + S2) / 2)^-1 (m1 - m2))        (eq. 10)

The pristine model is package data, weights/niqe_pristine.safetensors; source and
licences stand in weights/NIQE_LICENSE.txt, convert/niqe_pristine.py made it.

The tables of generative super-resolution come from pyiqa 0.1.10's `niqe` on a GPU,
whose digits hang on two accidents that are followed here: see `_luma` and `_WINDOW`.
Unlike the paper all blocks count, not only the sharp ones, as in the authors'
released code for the image to judge. numpy in float64.
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

# Neighbours whose products are described: right, below and the two diagonals.
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))


def _gaussian_window() -> np.ndarray:
    """7x7, sigma 7/6, summing to 1 but for the rounding to float32.

    In flat areas the normalised luma is 0 up to the rounding of the window's sum,
    and the fit of eq. 7 counts negative and positive values: the sign of that
    rounding shows. The published values come from a float32 window.
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
    """Reads the pristine model, once, and returns the metric.

    Returns:
        A function (sr) -> NIQE, >= 0, lower is better; photographs have about 3 to
        6. sr is uint8 (H, W, 3), RGB, both sides at least 96; what is right of and
        below the last whole 96x96 block does not count. It raises ValueError for
        other arrays, and where fewer than two blocks have any texture: their
        covariance is then undefined.

    Raises:
        ValueError: the weight file of this installation lacks a tensor or has
            one too many.
    """
    params = _load_parameters()

    def niqe(sr: np.ndarray) -> float:
        check_image("sr", sr)
        features = block_features(sr)
        # A block without positive or without negative values has no fit.
        is_fitted = np.isfinite(features).all(axis=1)
        if is_fitted.sum() < 2:
            raise ValueError(
                f"NIQE needs two {BLOCK}x{BLOCK} blocks with texture, this image has "
                f"{is_fitted.sum()} of {len(features)}"
            )
        mean = np.nanmean(features, axis=0)
        covariance = np.cov(features[is_fitted], rowvar=False)
        difference = params["mean"] - mean
        inverse = np.linalg.pinv((params["covariance"] + covariance) / 2)
        return math.sqrt(difference @ inverse @ difference)

    return niqe


def block_features(image: np.ndarray) -> np.ndarray:
    """The 36 features of each whole block.

    Args:
        image: uint8 (H, W, 3), RGB, both sides at least 96.

    Returns:
        (blocks, 36) float64, 18 at full and 18 at half size. NaN stands where a
        block has no positive or no negative values (flat areas).

    Raises:
        ValueError: the image is too small.
    """
    rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    if not rows or not columns:
        raise ValueError(
            f"NIQE needs both sides >= {BLOCK} pixels, "
            f"got {image.shape[0]}x{image.shape[1]}"
        )
    luma = _luma(image[: rows * BLOCK, : columns * BLOCK])
    features = []
    for side in (BLOCK, BLOCK // 2):
        blocks = _normalize(luma).reshape(rows, side, columns, side).swapaxes(1, 2)
        features.append(_features(blocks.reshape(rows * columns, side, side)))
        luma = _halve(luma)
    return np.concatenate(features, axis=1)


def _luma(image: np.ndarray) -> np.ndarray:
    """Full-range luma of BT.601, whole levels 0..255: (H, W, 3) to (H, W).

    One pixel in a thousand lies between two levels (299 R + 587 G + 114 B = 500 mod
    1000), and rounding these the other way moves NIQE by up to 0.03 where much of
    the image is flat. The published values come from float32 on a GPU: times 1/255,
    then fused multiply-adds over R, G, B. A product of two float32 is exact in
    float64, so one rounding to float32 after the sum is a fused multiply-add.
    """
    scaled = image.astype(np.float32) * np.float32(1 / 255)
    weights = np.array([0.299, 0.587, 0.114], np.float32).astype(np.float64)
    luma = np.zeros(image.shape[:2], np.float32)
    for channel, weight in enumerate(weights):
        luma = (scaled[..., channel] * weight + luma).astype(np.float32)
    return np.round(luma * np.float32(255)).astype(np.float64)


def _normalize(luma: np.ndarray) -> np.ndarray:
    """Eq. 1: (H, W) to (H, W), to local mean 0 and, in texture, deviation 1."""
    mean = _blur(luma)
    deviation = np.sqrt(np.abs(_blur(luma * luma) - mean * mean))
    return (luma - mean) / (deviation + 1)


def _blur(luma: np.ndarray) -> np.ndarray:
    """Mean under the window, edges repeated: (H, W) to (H, W)."""
    height, width = luma.shape
    padded = np.pad(luma, 3, mode="edge")
    return sum(
        _WINDOW[i, j] * padded[i : i + height, j : j + width]
        for i in range(7)
        for j in range(7)
    )


def _halve(luma: np.ndarray) -> np.ndarray:
    """Antialiased bicubic to half size, edges mirrored: even (H, W) to (H/2, W/2)."""
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
    """The 18 features of one scale: (blocks, side, side) to (blocks, 18)."""
    alpha, _, left, right = fit_aggd(blocks)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        # Around the block's own edge, as in the released code.
        features += fit_aggd(blocks * np.roll(blocks, shift, axis=(1, 2)))
    return np.stack(features, axis=1)


def fit_aggd(blocks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fits asymmetric generalized Gaussians by moments (eq. 7, 8).

    Args:
        blocks: float64 (blocks, side, side).

    Returns:
        Shape alpha in [0.2, 10] (2 is a Gaussian), mean, and the scales beta of the
        left and the right side, each (blocks,). All but alpha are NaN where a side
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
    # The nearest entry of the rising table; the first where nothing can be fitted,
    # as the released code has it: such an alpha still enters the mean.
    between = (expected_ratio[1:] + expected_ratio[:-1]) / 2
    index = np.where(np.isnan(ratio), 0, np.searchsorted(between, ratio))
    left, right = left * scale_factor[index], right * scale_factor[index]
    return alphas[index], (right - left) * mean_factor[index], left, right


@functools.cache
def _gamma_table() -> tuple[np.ndarray, ...]:
    """Alphas, and for each: (E|x|)^2 / E x^2, beta over deviation, mean over beta."""
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


def _load_parameters() -> dict[str, np.ndarray]:
    file = resources.files("linearsr_jax") / "weights" / WEIGHTS_FILE
    tensors = load(file.read_bytes())
    if {name: tensor.shape for name, tensor in tensors.items()} != PARAMETER_SHAPES:
        raise ValueError(
            f"{file}: must hold {PARAMETER_SHAPES}; install the package again"
        )
    return tensors
