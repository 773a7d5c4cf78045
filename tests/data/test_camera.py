"""The camera: each part against its closed form, the draws against their ranges."""

import dataclasses
import io

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from linearsr_jax.data import camera, degradations
from linearsr_jax.data.degradation_params import CAMERA

NOTHING = camera.CameraPlan(None, True, 0.0, 0.0, 0.0, None)


def rng(seed=0):
    return np.random.default_rng(seed)


def random_image(side=48):
    return rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("radius", [0.3, 0.5, 1.7, 3.0, 6.0])
def test_disc_covers_its_area(radius):
    kernel = camera.disc_kernel(radius)
    assert kernel.shape[0] % 2 == 1
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    # Inside it is flat, at one over the disc's area.
    if radius >= 1.7:
        middle = kernel[kernel.shape[0] // 2, kernel.shape[1] // 2]
        assert 1 / middle == pytest.approx(np.pi * radius**2, rel=0.03)


def test_gaussian_has_its_deviation_along_its_axis():
    kernel = camera.gaussian_kernel(4.0, 1.5, rotation=0.0).astype(float)
    axis = np.arange(len(kernel)) - len(kernel) // 2
    assert np.sqrt((kernel.sum(0) * axis**2).sum()) == pytest.approx(4.0, rel=0.03)
    assert np.sqrt((kernel.sum(1) * axis**2).sum()) == pytest.approx(1.5, rel=0.03)


def test_light_and_back():
    levels = np.linspace(0, 1, 256, dtype=np.float32)
    np.testing.assert_allclose(
        camera.to_srgb(camera.to_linear(levels)), levels, atol=1e-6
    )
    # Middle grey of the standard.
    assert camera.to_linear(np.float32(0.5)) == pytest.approx(0.2140, abs=1e-4)


@pytest.mark.parametrize(("shot", "read"), [(0.01, 0.0), (0.0, 1e-4), (0.004, 2e-5)])
def test_noise_has_the_variance_of_the_light(shot, read):
    image = np.full((3, 256, 256), 0.6, np.float32)
    noisy = camera.sensor_noise(image, shot, read, rng())
    light = camera.to_linear(image[0, 0, 0])
    measured = np.var(camera.to_linear(noisy.astype(float)))
    assert measured == pytest.approx(shot * light + read, rel=0.02)


def test_without_anything_photosites_take_the_mean():
    image = random_image()
    expected = image.reshape(12, 4, 12, 4, 3).mean((1, 3))
    lr = camera.apply_camera(image, NOTHING, 4, rng())
    assert np.abs(lr - expected).max() <= 0.5 + 1e-3
    cubic = dataclasses.replace(NOTHING, is_area=False)
    lr = camera.apply_camera(image, cubic, 4, rng())
    np.testing.assert_array_equal(lr, degradations.bicubic(image, 4))


def test_lens_and_smoothing_blur_on_their_own_grids():
    """A line keeps its sum and gets the blur's variance, in pixels of each grid."""
    image = np.zeros((160, 160, 3), np.uint8)
    image[:, 80:84] = 255
    lens = camera.gaussian_kernel(4.0, 4.0)
    columns = np.arange(40)
    # The line's own width and that of a photosite: (4^2 - 1) / 12 HR pixels each.
    width = 1.25 / 4**2
    for plan, expected in (
        (dataclasses.replace(NOTHING, lens=lens), (4.0 / 4) ** 2 + 2 * width),
        (dataclasses.replace(NOTHING, smoothing=0.8), 0.8**2),
    ):
        row = camera.apply_camera(image, plan, 4, rng())[20, :, 0].astype(float)
        mean = (row * columns).sum() / row.sum()
        variance = (row * (columns - mean) ** 2).sum() / row.sum()
        assert variance == pytest.approx(expected, rel=0.07)


def test_jpeg_is_pillows():
    image = random_image()
    plan = dataclasses.replace(NOTHING, quality=75)
    stream = io.BytesIO()
    clean = camera.apply_camera(image, NOTHING, 4, rng())
    Image.fromarray(clean).save(stream, "JPEG", quality=75, subsampling="4:2:0")
    lr = camera.apply_camera(image, plan, 4, rng())
    np.testing.assert_array_equal(lr, np.asarray(Image.open(stream)))


@pytest.fixture(scope="module")
def plans():
    generator = rng(2)
    return [camera.draw_camera(CAMERA, generator) for _ in range(4000)]


def test_parts_are_as_frequent_as_said(plans):
    for is_there, probability in (
        ([p.lens is None for p in plans], CAMERA.lens_probs[0]),
        ([p.is_area for p in plans], CAMERA.area_prob),
        ([p.shot > 0 for p in plans], CAMERA.noise_prob),
        ([p.smoothing > 0 for p in plans], CAMERA.smoothing_prob),
        ([p.quality is not None for p in plans], CAMERA.jpeg_prob),
    ):
        test = scipy.stats.binomtest(sum(is_there), len(plans), probability)
        assert test.pvalue > 1e-4


def test_draws_fill_their_ranges(plans):
    shots = np.array([p.shot for p in plans if p.shot])
    log = np.log(shots)
    low, high = np.log(CAMERA.shot)
    uniform = scipy.stats.uniform(low, high - low)
    assert scipy.stats.kstest(log, uniform.cdf).pvalue > 1e-4
    slope, offset, spread = CAMERA.log_read
    reads = np.log([p.read for p in plans if p.shot])
    errors = (reads - slope * log - offset) / spread
    assert scipy.stats.kstest(errors, scipy.stats.norm.cdf).pvalue > 1e-4
    qualities = {p.quality for p in plans if p.quality is not None}
    assert (min(qualities), max(qualities)) == CAMERA.jpeg_quality


def test_blur_goes_well_beyond_standards(plans):
    """The widest kernels spread light twice as far as STANDARD's first blur can."""

    def deviation(kernel):
        axis = np.arange(len(kernel)) - len(kernel) // 2
        return np.sqrt((kernel.sum(0) * axis**2).sum())

    deviations = [deviation(p.lens) for p in plans if p.lens is not None]
    assert max(deviations) > 4.0
    assert np.mean(np.array(deviations) > 3.0) > 0.1


def test_a_function_of_the_generator():
    image = random_image()
    one, again = (camera.degrade(image, CAMERA, 4, rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert (one != camera.degrade(image, CAMERA, 4, rng(6))).any()
    with pytest.raises(ValueError, match="divided by 4"):
        camera.degrade(image[:-1], CAMERA, 4, rng())
