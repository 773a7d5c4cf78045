"""PSNR and SSIM: the published digits, closed forms, and a naive SSIM."""

import csv

import numpy as np
import pytest

from linearsr_jax.core.image_io import read_image
from linearsr_jax.metrics.psnr_ssim import psnr_y, ssim_y

SAMPLES = ["Canon_001_LR4.png", "Canon_027_LR4.png", "Nikon_010_LR4.png"]


def random_image(seed, height=24, width=45):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def naive_ssim(a, b):
    """SSIM window by window with the whole 2-D Gaussian, from the definition."""

    def luma(image):
        r, g, b = np.moveaxis(image / 255.0, -1, 0)
        return np.round(65.481 * r + 128.553 * g + 24.966 * b + 16)

    a, b = luma(a), luma(b)
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p = (window * (p - mean_p) ** 2).sum()
            var_q = (window * (q - mean_q) ** 2).sum()
            cov = (window * (p - mean_p) * (q - mean_q)).sum()
            cs = max((2 * cov + c2) / (var_p + var_q + c2), 0)
            values.append(
                cs * (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
            )
    return np.mean(values)


@pytest.mark.parametrize("name", SAMPLES)
def test_published_digits(shared, name):
    realsr = shared / "benchmarks" / "RealSR"
    with open(realsr / "osediff_metrics.csv", newline="") as file:
        row = {r["file"]: r for r in csv.DictReader(file)}[name]
    sr = read_image(realsr / "osediff_sample" / name).rgb
    hr = read_image(realsr / "HR" / name).rgb
    # Their float32 against our float64.
    assert psnr_y(sr, hr) == pytest.approx(float(row["PSNR"]), abs=1e-4)
    assert ssim_y(sr, hr) == pytest.approx(float(row["SSIM"]), abs=1e-5)


def test_psnr_of_a_constant_offset():
    hr = np.full((12, 13, 3), 100, np.uint8)
    # All channels + 10 of 255 moves Y by 219/255 of 10/255.
    mse = (219 / 255 * 10 / 255) ** 2
    expected = 10 * np.log10(1 / (mse + 1e-8))
    assert psnr_y(hr + np.uint8(10), hr) == pytest.approx(expected, abs=1e-9)


def test_channel_order_is_rgb():
    hr = np.zeros((12, 12, 3), np.uint8)
    psnr = []
    for channel in range(3):
        sr = hr.copy()
        sr[..., channel] = 90
        psnr.append(psnr_y(sr, hr))
    # Green weighs most, blue least: their errors, in that order.
    assert psnr[1] < psnr[0] < psnr[2]


def test_identical_images():
    image = random_image(0)
    assert psnr_y(image, image) == pytest.approx(80, abs=1e-9)
    assert ssim_y(image, image) == pytest.approx(1, abs=1e-12)


def test_symmetric():
    a, b = random_image(1), random_image(2)
    assert psnr_y(a, b) == psnr_y(b, a)
    assert ssim_y(a, b) == pytest.approx(ssim_y(b, a), abs=1e-12)


# 43 is one row more than a strip of 32 whole windows, 24 is less than one.
@pytest.mark.parametrize(("height", "width"), [(11, 11), (24, 45), (43, 17)])
def test_ssim_equals_the_naive_one(height, width):
    a = random_image(3, height, width)
    # Half correlated, half not, so that some windows have a negative cs.
    b = np.where(np.arange(width)[:, None] < width // 2, a // 2, 255 - a)
    b = b.astype(np.uint8)
    assert ssim_y(a, b) == pytest.approx(naive_ssim(a, b), abs=1e-9)


def test_negative_contrast_structure_counts_as_zero():
    a = random_image(4)
    assert ssim_y(a, 255 - a) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_refuses_what_is_not_a_pair(metric):
    image = random_image(5)
    with pytest.raises(ValueError, match="same shape"):
        metric(image, image[:, :-1])
    with pytest.raises(ValueError, match="uint8"):
        metric(image / 255, image)
    with pytest.raises(ValueError, match="uint8"):
        metric(image[..., 0], image[..., 0])
    with pytest.raises(ValueError, match="empty"):
        metric(image[:0], image[:0])


def test_ssim_refuses_images_below_its_window():
    image = random_image(6, 10, 40)
    with pytest.raises(ValueError, match="11"):
        ssim_y(image, image)
