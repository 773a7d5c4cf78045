import dataclasses

import numpy as np
import pytest
import scipy.ndimage

from linearsr_jax.data import blur_kernels, degradation_plan, degradations
from linearsr_jax.data.degradation_params import LIGHT, STANDARD


def _rng(seed=0):
    return np.random.default_rng(seed)


def _image(height=48, width=32, smooth=3.0):
    noise = _rng().normal(size=(height, width, 3))
    image = scipy.ndimage.gaussian_filter(noise, (smooth, smooth, 0))
    image = (image - image.min()) / np.ptp(image)
    return np.rint(20 + 215 * image).astype(np.uint8)


def _cubic(x, a):
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def test_bicubic_is_the_antialiased_cubic():
    image = _rng().integers(0, 256, (48, 32, 3), dtype=np.uint8)
    small = degradations.bicubic(image, 4)
    assert small.shape == (12, 8, 3)
    expected = image.astype(float)
    for axis in (0, 1):
        size = image.shape[axis]
        centre = (np.arange(size // 4) + 0.5) * 4 - 0.5
        weights = _cubic((centre[:, None] - np.arange(size)) / 4, -0.5)
        weights /= weights.sum(1, keepdims=True)
        expected = np.moveaxis(np.tensordot(weights, expected, (1, axis)), 0, axis)
    # One level: Pillow rounds to 8 bits between rows and columns.
    assert np.abs(small - np.clip(expected, 0, 255)).max() <= 1.0


@pytest.mark.parametrize(("size_in", "size_out"), [(20, 33), (20, 7), (16, 16)])
def test_bilinear_samples_between_pixels(size_in, size_out):
    signal = _rng().random(size_in)
    centre = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    expected = np.interp(centre, np.arange(size_in), signal)
    matrix = degradations.resize_matrix(size_in, size_out, "bilinear")
    np.testing.assert_allclose(matrix @ signal, expected, atol=1e-6)


def test_bicubic_matrix_is_keys_with_minus_three_quarters():
    for size_out, scale in ((31, 1.57), (9, 0.47)):
        matrix = degradations.resize_matrix(20, size_out, "bicubic", scale)
        centre = (np.arange(size_out) + 0.5) / scale - 0.5
        expected = _cubic(centre[:, None] - np.arange(20), -0.75)
        inside = (centre > 1) & (centre < 18)
        np.testing.assert_allclose(matrix[inside], expected[inside], atol=1e-6)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_area_is_the_mean_over_bins():
    signal = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    matrix = degradations.resize_matrix(5, 3, "area")
    np.testing.assert_allclose(matrix @ signal, [1.5, 14 / 3, 12.0], rtol=1e-6)
    matrix = degradations.resize_matrix(12, 3, "area")
    np.testing.assert_allclose(matrix, np.kron(np.eye(3), np.full((1, 4), 0.25)))
    with pytest.raises(ValueError, match="nearest"):
        degradations.resize_matrix(5, 3, "nearest")


@pytest.mark.parametrize("is_gray", [False, True])
def test_gaussian_noise_has_the_variance_asked_for(is_gray):
    image = np.full((3, 120, 100), 0.5, np.float32)
    noise = degradations.gaussian_noise(image, 10.0, is_gray, _rng()) - image
    assert abs(noise.std() * 255 - 10) < 0.25
    assert np.array_equal(noise[0], noise[1]) == is_gray
    assert abs(np.corrcoef(noise[0].ravel(), noise[2].ravel())[0, 1] - is_gray) < 0.05


@pytest.mark.parametrize("is_gray", [False, True])
def test_poisson_noise_grows_with_brightness(is_gray):
    # All 256 levels, so white is 256 photons: variance = level / 256.
    ramp = np.broadcast_to(np.arange(256) / 255, (3, 64, 256)).astype(np.float32)
    noise = degradations.poisson_noise(ramp, 0.5, is_gray, _rng()) - ramp
    dark, bright = noise[:, :, 60:68], noise[:, :, 180:188]
    for part, level in ((dark, 63.5), (bright, 183.5)):
        expected = 0.5**2 * (level / 255) / 256
        assert abs(part.var() / expected - 1) < 0.2
        assert abs(part.mean()) < 0.2 * np.sqrt(expected)
    same = np.abs(noise[0] - noise[1])[:, 20:200].max() < 1e-6
    assert same == is_gray


@pytest.mark.parametrize(("levels", "photons"), [((128,), 1), ((60, 120, 180), 4)])
def test_poisson_noise_has_the_closed_forms_variance(levels, photons):
    # Variance of scale (Poisson(level photons) / photons): scale^2 level / photons,
    # photons being the number of levels rounded up to a power of two.
    row = np.resize(np.repeat(levels, 80), 240)
    image = np.broadcast_to(row / np.float32(255), (3, 100, 240)).astype(np.float32)
    noise = degradations.poisson_noise(image, 0.05, False, _rng()) - image
    expected = 0.05**2 * np.mean(row / 255) / photons
    assert abs(np.mean(noise**2) / expected - 1) < 0.05


def test_jpeg_gets_better_with_quality():
    image = _image(64, 64, smooth=1.0)[..., :1].repeat(3, 2)
    image = image.transpose(2, 0, 1) / np.float32(255)
    errors = []
    for quality in (30, 60, 95):
        decoded = degradations.jpeg(image, quality)
        assert decoded.dtype == np.float32
        assert decoded.shape == image.shape
        errors.append(np.sqrt(np.mean((decoded - image) ** 2)))
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[2] < 0.01


def test_jpeg_halves_the_resolution_of_colour():
    # Columns of equal luma, alternately red and green.
    image = np.zeros((3, 32, 32), np.float32)
    image[0, :, ::2] = 0.587 / 0.299 / 2
    image[1, :, 1::2] = 0.5
    decoded = degradations.jpeg(image, 95)
    assert np.ptp(image[0] - image[1]) > 1.0
    assert np.ptp(decoded[0] - decoded[1]) < 0.2


def test_degrade_without_degradations_is_a_small_copy():
    # Kernels of one pixel, sizes kept, no noise, best JPEG: what remains is the
    # resize, which on a smooth image is nearly the same in every mode.
    params = dataclasses.replace(
        LIGHT,
        sigma1=(0.05, 0.05),
        sinc_prob1=0.0,
        kernel_probs=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        resize_probs1=(0.0, 0.0, 1.0),
        resize_probs2=(0.0, 0.0, 1.0),
        gaussian_prob1=1.0,
        gaussian_prob2=1.0,
        noise_sigma1=(0.0, 0.0),
        noise_sigma2=(0.0, 0.0),
        jpeg_quality1=(100, 100),
        jpeg_quality2=(100, 100),
        second_blur_prob=0.0,
        final_sinc_prob=0.0,
        no_degradation_prob=0.0,
    )
    image = _image(64, 48, smooth=8.0)
    expected = degradations.bicubic(image, 4).astype(int)
    for seed in range(6):
        small = degradations.degrade(image, params, 4, _rng(seed))
        assert np.abs(small - expected).mean() < 3.0


def _record_order(monkeypatch, plan):
    """Applies a plan and returns its operations in order."""
    order = []

    def spy(owner, name, label):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda *args: order.append(label(args)) or real(*args),
        )

    spy(degradations.blur_kernels, "blur", lambda args: f"blur {args[1].shape[0]}")
    spy(degradations, "_resize", lambda args: f"{args[2]} {args[1]}")
    spy(degradations, "gaussian_noise", lambda args: f"gaussian {args[1]}")
    spy(degradations, "poisson_noise", lambda args: f"poisson {args[1]}")
    spy(degradations, "jpeg", lambda args: f"jpeg {args[1]}")
    degradations.apply_plan(_image(), plan, 4)
    monkeypatch.undo()
    return order


def test_operations_come_in_the_fields_order(monkeypatch):
    noise = degradation_plan.Noise(is_gaussian=True, is_gray=False, level=7.0)
    sinc = blur_kernels.Kernel("sinc", 9, cutoff=2.0)
    plan = degradation_plan.DegradationPlan(
        is_bicubic=False,
        first=degradation_plan.Round(
            quality=None,
            kernel=dataclasses.replace(sinc, size=21),
            scale=0.5,
            mode="area",
            noise=noise,
        ),
        second=degradation_plan.Round(
            quality=40,
            kernel=dataclasses.replace(sinc, size=13),
            scale=0.75,
            mode="bilinear",
            noise=dataclasses.replace(noise, is_gaussian=False, level=0.5),
        ),
        last=degradation_plan.Last(
            kernel=sinc, quality=90, mode="bicubic", is_jpeg_last=True
        ),
        noise_seed=0,
    )
    start = ["blur 21", "area (24, 16)", "gaussian 7.0", "jpeg 40", "blur 13"]
    start += ["bilinear (9, 6)", "poisson 0.5"]
    end = ["bicubic (12, 8)", "blur 9", "jpeg 90"]
    assert _record_order(monkeypatch, plan) == start + end
    last = dataclasses.replace(plan.last, is_jpeg_last=False)
    plan = dataclasses.replace(plan, last=last)
    assert _record_order(monkeypatch, plan) == [*start, end[2], *end[:2]]


def test_the_stream_is_the_one_nano_was_trained_on():
    # Mean and standard deviation, recorded then; other noise moves them by 0.1 and
    # more, other versions of libjpeg hardly.
    i = np.arange(48 * 32 * 3).reshape(48, 32, 3)
    coarse = (i * i // 7 % 256).astype(np.uint8)[::8, ::8]
    image = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    recorded = [
        (117.75, 52.07),
        (115.40, 47.68),
        (116.92, 53.81),
        (117.31, 47.38),
        (114.14, 54.82),
        (115.00, 55.81),
        (115.25, 53.11),
        (115.59, 44.99),
    ]
    for seed, expected in enumerate(recorded):
        small = degradations.degrade(image, LIGHT, 4, _rng(seed))
        np.testing.assert_allclose((small.mean(), small.std()), expected, atol=0.05)


@pytest.mark.parametrize("params", [LIGHT, STANDARD])
def test_a_plan_and_its_seed_decide_the_image(params):
    plan = degradation_plan.draw_plan(params, _rng())
    small = degradations.apply_plan(_image(), plan, 4)
    again = degradations.apply_plan(_image(), plan, 4)
    np.testing.assert_array_equal(small, again)
    plan = dataclasses.replace(plan, noise_seed=plan.noise_seed ^ 1)
    assert not np.array_equal(degradations.apply_plan(_image(), plan, 4), small)
    plan = dataclasses.replace(plan, is_bicubic=True)
    small = degradations.apply_plan(_image(), plan, 4)
    np.testing.assert_array_equal(small, degradations.bicubic(_image(), 4))


def test_no_degradation_is_bicubic():
    params = dataclasses.replace(LIGHT, no_degradation_prob=1.0)
    small = degradations.degrade(_image(), params, 4, _rng())
    np.testing.assert_array_equal(small, degradations.bicubic(_image(), 4))


@pytest.mark.parametrize("factor", [2, 4])
def test_degrade_is_a_function_of_the_generator(factor):
    image = _image()
    outputs = []
    for seed in range(30):
        small = degradations.degrade(image, LIGHT, factor, _rng(seed))
        again = degradations.degrade(image, LIGHT, factor, _rng(seed))
        assert small.dtype == np.uint8
        assert small.shape == (48 // factor, 32 // factor, 3)
        np.testing.assert_array_equal(small, again)
        outputs.append(small.tobytes())
    assert len(set(outputs)) == 30


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="divided by 4"):
        degradations.bicubic(np.zeros((10, 8, 3), np.uint8), 4)
    with pytest.raises(ValueError, match="uint8"):
        degradations.degrade(np.zeros((8, 8, 3), np.float32), LIGHT, 4, _rng())
    with pytest.raises(ValueError, match="uint8"):
        degradations.bicubic(np.zeros((8, 8), np.uint8))
