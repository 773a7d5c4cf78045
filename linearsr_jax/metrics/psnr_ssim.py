"""PSNR and SSIM on luma, as in the field's tables.

Generative super-resolution is compared by `psnr` and `ssim` of pyiqa 0.1.10 with
test_y_channel=True and color_space="ycbcr", without cropping the border. With
R, G, B in [0, 1] (ITU-R BT.601, studio range),

    Y    = (65.481 R + 128.553 G + 24.966 B + 16) / 255
    PSNR = 10 log10(1 / (mean((Y_sr - Y_hr)^2) + 1e-8))
    SSIM = mean(l max(cs, 0)) on round(255 Y), Gaussian 11x11, sigma 1.5, "valid"

The range of Y is 219/255, not 1, while the peak in PSNR is 1. Values from full-range
luma (pyiqa's default "yiq") are 1.32 dB lower and cannot be compared. Everything is
computed in numpy and float64.
"""

import numpy as np

_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
# Rows of SSIM computed at a time. This bounds the memory for large images and keeps
# the five filtered maps in the cache.
_STRIP_ROWS = 32


def psnr_y(sr: np.ndarray, hr: np.ndarray) -> float:
    """Computes the peak signal-to-noise ratio of luma in dB; higher is better.

    Args:
        sr: image to judge, uint8 (H, W, 3), RGB.
        hr: true image, uint8 (H, W, 3), RGB. The order of the two does not matter.

    Returns:
        PSNR, at most 80 dB, which identical images reach because of the 1e-8 in the
        formula above.

    Raises:
        ValueError: an array is not as above, or the shapes differ.
    """
    check_pair(sr, hr)
    mse = np.mean(np.square(_luma(sr) - _luma(hr)))
    return float(10 * np.log10(1 / (mse + 1e-8)))


def ssim_y(sr: np.ndarray, hr: np.ndarray) -> float:
    """Computes the mean structural similarity of luma; higher is better.

    Wang et al., 2004. Unlike the original, windows whose contrast-structure term is
    negative count as 0 (see the formula above).

    Args:
        sr: image to judge, uint8 (H, W, 3), RGB, at least 11 pixels on each side.
        hr: true image, uint8 (H, W, 3), RGB. The order of the two does not matter.

    Returns:
        SSIM in [0, 1]; identical images give 1.

    Raises:
        ValueError: an array is not as above, or the shapes differ.
    """
    check_pair(sr, hr)
    height, width, _ = sr.shape
    if min(height, width) < _WINDOW:
        raise ValueError(
            f"SSIM needs both sides >= {_WINDOW} pixels, got {height}x{width}"
        )
    total = 0.0
    valid_rows = height - _WINDOW + 1
    for top in range(0, valid_rows, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, valid_rows) + _WINDOW - 1
        a = np.round(255 * _luma(sr[top:bottom]))
        b = np.round(255 * _luma(hr[top:bottom]))
        total += _ssim_map(a, b).sum()
    return float(total / (valid_rows * (width - _WINDOW + 1)))


def check_pair(sr: np.ndarray, hr: np.ndarray) -> None:
    """Checks the arguments of a full-reference metric.

    Args:
        sr: uint8 (H, W, 3).
        hr: uint8 (H, W, 3), of the same size.

    Raises:
        ValueError: see `check_image`; or the shapes differ.
    """
    check_image("sr", sr)
    check_image("hr", hr)
    if sr.shape != hr.shape:
        raise ValueError(
            f"sr and hr must have the same shape, got {sr.shape} and {hr.shape}"
        )


def check_image(name: str, image: np.ndarray) -> None:
    """Checks an image that a metric receives.

    Args:
        name: name of the image in the error message.
        image: uint8 (H, W, 3), not empty.

    Raises:
        ValueError: image is something else. Floats are refused rather than rounded,
            because [0, 1] taken for 0..255 would give plausible nonsense.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{name} must be uint8 (H, W, 3), got {image.dtype} {image.shape}"
        )
    if image.size == 0:
        raise ValueError(f"{name} must not be empty, got {image.shape}")


def _luma(image: np.ndarray) -> np.ndarray:
    """Computes Y as above: uint8 (H, W, 3) to float64 (H, W), in [16, 235] / 255."""
    rgb = image.astype(np.float64)
    weighted = 65.481 * rgb[..., 0] + 128.553 * rgb[..., 1] + 24.966 * rgb[..., 2]
    return (weighted / 255 + 16) / 255


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes SSIM of each whole window: (H, W) each to (H - 10, W - 10)."""
    mean_a, mean_b = _blur(a), _blur(b)
    mean_aa, mean_bb, mean_ab = mean_a**2, mean_b**2, mean_a * mean_b
    # Only the sum of the variances is needed, so filter it once.
    variances = _blur(a * a + b * b) - (mean_aa + mean_bb)
    covariance = _blur(a * b) - mean_ab
    luminance = (2 * mean_ab + _C1) / (mean_aa + mean_bb + _C1)
    contrast_structure = (2 * covariance + _C2) / (variances + _C2)
    return luminance * np.maximum(contrast_structure, 0)


def _gaussian() -> np.ndarray:
    """Computes the one-dimensional factor (11,) of the window, with sum 1."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _blur(image: np.ndarray) -> np.ndarray:
    """Averages each whole window by the Gaussian: (H, W) to (H - 10, W - 10)."""
    height, width = image.shape[0] - _WINDOW + 1, image.shape[1] - _WINDOW + 1
    weights = _gaussian()
    rows = sum(w * image[i : i + height] for i, w in enumerate(weights))
    return sum(w * rows[:, i : i + width] for i, w in enumerate(weights))
