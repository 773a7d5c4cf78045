"""Kernels against scipy and closed forms, blurring against scipy.ndimage."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import scipy.stats

from linearsr_jax.data import blur_kernels
from linearsr_jax.data.blur_kernels import Kernel
from linearsr_jax.data.degradation_params import LIGHT, STANDARD


def _rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("cutoff", "size"), [(np.pi / 5, 21), (2.0, 7), (np.pi, 13)])
def test_sinc_kernel_against_scipy(cutoff, size):
    axis = np.arange(size) - size // 2
    radius = np.hypot(axis[:, None], axis)
    radius[size // 2, size // 2] = 1e-9
    expected = cutoff * scipy.special.j1(cutoff * radius) / (2 * np.pi * radius)
    kernel = blur_kernels.sinc_kernel(cutoff, size)
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-6)


def test_sinc_passes_low_and_stops_high_frequencies():
    kernel = blur_kernels.sinc_kernel(1.5, 21)
    x = np.broadcast_to(np.arange(96), (1, 96, 96)).astype(np.float32)
    middle = np.s_[:, 24:-24, 24:-24]
    low = blur_kernels.blur(np.cos(0.5 * x), kernel)[middle].std()
    high = blur_kernels.blur(np.cos(2.7 * x), kernel)[middle].std()
    assert 0.6 < low < 0.8  # A cosine's own is 0.707.
    assert high < 0.05


@pytest.mark.parametrize("rotation", [0.0, 0.7, -2.0])
def test_gaussian_kernel_is_the_normal_density(rotation):
    turn = np.array(
        [
            [np.cos(rotation), -np.sin(rotation)],
            [np.sin(rotation), np.cos(rotation)],
        ]
    )
    covariance = turn @ np.diag([2.5**2, 0.8**2]) @ turn.T
    axis = np.arange(15) - 7
    points = np.stack(np.meshgrid(axis, axis, indexing="xy"), -1)  # (x, y)
    expected = scipy.stats.multivariate_normal([0, 0], covariance).pdf(points)
    kernel = blur_kernels.shaped_kernel("gaussian", 15, 2.5, 0.8, rotation)
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-7)


def test_generalized_and_plateau_at_known_points():
    # On the axis at distance d, m = (d / sigma)^2.
    kernel = blur_kernels.shaped_kernel("generalized", 9, 2.0, 2.0, 0.0, 0.5)
    np.testing.assert_allclose(kernel[4, 6] / kernel[4, 4], np.exp(-0.5), rtol=1e-5)
    np.testing.assert_allclose(kernel[8, 4] / kernel[4, 4], np.exp(-1), rtol=1e-5)
    kernel = blur_kernels.shaped_kernel("plateau", 9, 2.0, 1.0, 0.0, 1.5)
    np.testing.assert_allclose(kernel[4, 6] / kernel[4, 4], 1 / 2, rtol=1e-5)
    np.testing.assert_allclose(kernel[6, 4] / kernel[4, 4], 1 / 9, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown"):
        blur_kernels.shaped_kernel("square", 9, 1.0, 1.0)


@pytest.mark.parametrize("shape", [(24, 41), (9, 13)])
@pytest.mark.parametrize("size", [7, 21])
def test_blur_is_correlation_with_reflected_edges(shape, size):
    # (9, 13) is smaller than half the large kernel: reflected more than once.
    image = _rng(1).random((3, *shape), np.float32)
    kernel = _rng(2).random((size, size)).astype(np.float32)
    kernel /= kernel.sum()
    expected = [scipy.ndimage.correlate(c, kernel, mode="mirror") for c in image]
    blurred = blur_kernels.blur(image, kernel)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, expected, atol=2e-6)


@pytest.mark.parametrize("params", [LIGHT, STANDARD])
def test_drawn_kernels_are_odd_and_sum_to_one(params):
    rng = _rng()
    sizes = set()
    for i in range(400):
        kernel = blur_kernels.draw_blur(params, 1 + i % 2, rng).render()
        sizes.add(kernel.shape)
        assert kernel.dtype == np.float32
        assert abs(kernel.sum(dtype=float) - 1) < 1e-5
    assert sizes == {(k, k) for k in range(7, 22, 2)}


def test_render_makes_the_kernel_that_was_drawn():
    sinc = Kernel("sinc", 9, cutoff=2.0).render()
    np.testing.assert_array_equal(sinc, blur_kernels.sinc_kernel(2.0, 9))
    bell = Kernel("plateau", 7, sigma_x=2.0, sigma_y=0.5, rotation=0.3, beta=1.5)
    expected = blur_kernels.shaped_kernel("plateau", 7, 2.0, 0.5, 0.3, 1.5)
    np.testing.assert_array_equal(bell.render(), expected)
