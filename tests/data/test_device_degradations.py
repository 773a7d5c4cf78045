"""The form in JAX against the numpy form of the same plans, and closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from linearsr_jax.data import (
    blur_kernels,
    degradation_plan,
    degradations,
    device_degradations,
)
from linearsr_jax.data.degradation_params import LIGHT, STANDARD
from linearsr_jax.data.degradation_plan import RESIZE_MODES
from linearsr_jax.training import sharding

SIZE = (48, 64)
BATCH = 24


def without_noise(params):
    return dataclasses.replace(
        params,
        noise_sigma1=(0.0, 0.0),
        noise_sigma2=(0.0, 0.0),
        poisson_scale1=(0.0, 0.0),
        poisson_scale2=(0.0, 0.0),
        no_degradation_prob=0.1,
    )


def make_images(count=BATCH):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(count, *SIZE, 3))
    images = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    images -= images.min((1, 2, 3), keepdims=True)
    return np.rint(255 * images / images.max((1, 2, 3), keepdims=True)).astype(np.uint8)


def draw_plans(params, count=BATCH):
    return [
        degradation_plan.draw_plan(params, np.random.default_rng([3, n]))
        for n in range(count)
    ]


def stack(plans):
    packed = [degradation_plan.pack(plan, SIZE, 4) for plan in plans]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *packed)


@functools.cache
def make_degrade(params):
    return jax.jit(
        functools.partial(
            device_degradations.degrade_on_device, params=params, factor=4
        )
    )


def psnr(a, b):
    error = np.mean((a.astype(float) - b.astype(float)) ** 2, (1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-4))


@pytest.mark.parametrize("params", [LIGHT, STANDARD])
def test_same_plan_gives_the_same_image_as_on_the_host(params):
    images, plans = make_images(), draw_plans(without_noise(params))
    expected = [
        degradations.apply_plan(image, plan, 4)
        for image, plan in zip(images, plans, strict=True)
    ]
    degraded = make_degrade(without_noise(params))(images, stack(plans))
    assert degraded.dtype == np.uint8
    scores = psnr(np.asarray(degraded), np.stack(expected))
    # What is left are JPEG coefficients that fall to the other side of a half.
    assert scores.min() > 32
    assert np.median(scores) > 42
    is_bicubic = np.array([plan.is_bicubic for plan in plans])
    assert is_bicubic.any()
    assert scores[is_bicubic].min() > 60


def test_result_depends_on_neither_place_nor_company_but_on_the_seed():
    images, plans = make_images(), draw_plans(without_noise(LIGHT))
    noisy = [
        dataclasses.replace(
            plan,
            is_bicubic=False,
            first=dataclasses.replace(
                plan.first, noise=dataclasses.replace(plan.first.noise, level=1.0)
            ),
        )
        for plan in plans
    ]
    degrade = make_degrade(without_noise(LIGHT))
    whole = np.asarray(degrade(images, stack(noisy)))
    turned = degrade(images[::-1], stack(noisy[::-1]))
    np.testing.assert_array_equal(np.asarray(turned)[::-1], whole)
    reseeded = [dataclasses.replace(plan, noise_seed=n) for n, plan in enumerate(noisy)]
    other = np.asarray(degrade(images, stack(reseeded)))
    assert (other != whole).any((1, 2, 3)).all()


def test_split_over_devices_equals_whole():
    params = without_noise(LIGHT)
    images, plans = make_images(), draw_plans(params)
    mesh = sharding.make_mesh(1, 4, experts=2)
    prepare = functools.partial(
        device_degradations.prepare_batch, params=params, factor=4
    )
    batch = {"image_hr": images, "plan": stack(plans)}
    of_experts = sharding.put_expert_batch(batch, mesh, 2, BATCH // 2)
    prepared = sharding.split_over_batch(prepare, mesh)(of_experts)
    assert prepared["image_lr"].shape[:2] == (2, BATCH // 2)
    assert prepared.keys() == {"image_hr", "image_lr"}
    assert len(prepared["image_lr"].sharding.device_set) == 8
    assert prepared["image_lr"].addressable_shards[0].data.shape[1] == BATCH // 8
    prepared = {name: x.reshape(BATCH, *x.shape[2:]) for name, x in prepared.items()}
    np.testing.assert_array_equal(prepared["image_hr"], images)
    whole = make_degrade(params)(images, stack(plans))
    # Other batch sizes may round otherwise; a rounding can move a JPEG coefficient.
    assert psnr(np.asarray(prepared["image_lr"]), np.asarray(whole)).min() > 40


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize(("size_in", "scale"), [(40, 1.27), (23, 0.31), (31, 1.0)])
def test_resize_matrix_is_the_hosts_in_a_corner(mode, size_in, scale):
    size_out = int(size_in * scale)
    expected = degradations.resize_matrix(size_in, size_out, mode, scale)
    make_matrix = jax.jit(device_degradations.resize_matrix, static_argnums=(4, 5))
    matrix = make_matrix(size_in, size_out, 1 / scale, RESIZE_MODES.index(mode), 44, 60)
    assert matrix.shape == (60, 44)
    np.testing.assert_allclose(matrix[:size_out, :size_in], expected, atol=3e-5)
    np.testing.assert_array_equal(matrix[:size_out, size_in:], 0)
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize("size", [(30, 41), (9, 13), (1, 2)])
def test_blur_reflects_at_the_images_own_border(size):
    rng = np.random.default_rng(0)
    buffer = rng.random((3, 33, 41), np.float32)
    kernel = blur_kernels.sinc_kernel(1.0, 21)
    expected = blur_kernels.blur(buffer[:, : size[0], : size[1]], kernel)
    blurred = jax.jit(device_degradations._blur)(buffer, jnp.array(size), kernel)
    assert blurred.shape == buffer.shape
    inside = np.asarray(blurred)[:, : size[0], : size[1]]
    np.testing.assert_allclose(inside, expected, atol=3e-6)


def test_bicubic_is_pillows():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    planes = image.transpose(2, 0, 1).astype(np.float32)
    ours = np.asarray(device_degradations.bicubic(planes, (12, 16)))
    difference = np.abs(ours.transpose(1, 2, 0) - degradations.bicubic(image, 4))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("mean", [0.0, 0.1, 1.0, 9.9, 10.1, 40.0, 256.0])
def test_poisson_draws_have_poissons_distribution(mean):
    normal = np.random.default_rng(0).standard_normal(100_000, np.float32)
    draw = jax.jit(device_degradations.poisson_from_normal)
    draws = draw(normal, jnp.full(100_000, mean))
    draws = np.asarray(draws).astype(int)
    counts = np.bincount(draws)
    expected = scipy.stats.poisson.pmf(np.arange(len(counts)), mean) * len(draws)
    often = expected > 10
    rest = [counts[~often].sum(), len(draws) - expected[often].sum()]
    counts, expected = [*counts[often], rest[0]], [*expected[often], rest[1]]
    if mean == 0:
        assert counts == [100_000, 0]
    else:
        assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("is_gray", [False, True])
@pytest.mark.parametrize(
    ("levels", "photons"), [((128,), 1), ((60, 120, 180), 4), (range(256), 256)]
)
def test_poisson_noise_has_the_closed_forms_variance(levels, photons, is_gray):
    # Variance of scale (Poisson(level photons) / photons): scale^2 level / photons,
    # photons being the number of levels rounded up to a power of two.
    levels = np.array(levels)
    row = np.resize(np.repeat(levels, -(-256 // len(levels))), 256)
    image = np.broadcast_to(row / np.float32(255), (3, 96, 256)).astype(np.float32)
    # Beyond the image are other levels, which do not count.
    buffer = np.random.default_rng(1).random((3, 100, 300), np.float32)
    buffer[:, :96, :256] = image
    normal = np.random.default_rng(0).standard_normal(buffer.shape, np.float32)
    if is_gray:
        normal[:] = normal[:1]
    noise = jax.jit(device_degradations.poisson_noise)(
        buffer, jnp.array([96, 256]), 0.05, is_gray, normal
    )
    noise = np.asarray(noise)[:, :96, :256]
    expected = 0.05**2 * np.mean(row / 255) / photons
    assert abs(np.mean(noise**2) / expected - 1) < 0.05
    assert abs(noise.mean()) < 0.05 * np.sqrt(expected)
    assert (np.ptp(noise, axis=0).max() == 0) == is_gray


@pytest.mark.parametrize("is_gray", [False, True])
@pytest.mark.parametrize("number", [0, 1])
def test_gaussian_noise_has_the_variance_asked_for(number, is_gray):
    plan = {
        "noise_seed": np.uint32(5),
        "noise_levels": np.array([10.0, 20.0], np.float32),
        "is_gray": np.array([is_gray, is_gray]),
        "is_gaussian": np.array([True, True]),
    }
    image = np.full((3, 80, 80), 0.5, np.float32)
    size = jnp.array([80, 80])
    add_noise = jax.jit(device_degradations._add_noise, static_argnums=3)
    noise = add_noise(image, size, plan, number) - image
    assert abs(np.std(noise) * 255 / (10, 20)[number] - 1) < 0.03
    correlation = np.corrcoef(np.ravel(noise[0]), np.ravel(noise[2]))[0, 1]
    assert abs(correlation - is_gray) < 0.05
