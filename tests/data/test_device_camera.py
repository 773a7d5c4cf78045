"""The camera in JAX, alone and among the others, against the form in numpy."""

import dataclasses
import functools

import jax
import numpy as np

from linearsr_jax.config.defaults import default_config
from linearsr_jax.data import camera, degradation_plan, degradations, pipeline
from linearsr_jax.data.degradation_params import CAMERA, STANDARD
from linearsr_jax.data.device_degradations import prepare_batch
from tests.data.test_device_degradations import (
    SIZE,
    make_degrade,
    make_images,
    psnr,
    without_noise,
)
from tests.data.test_device_degradations import (
    draw_plans as draw_second_order,
)

SECOND_ORDER = without_noise(STANDARD)
NOTHING = camera.CameraPlan(None, True, 0.0, 0.0, 0.0, None)


def degrade(images, packed):
    plan = jax.tree.map(lambda *arrays: np.stack(arrays), *packed)
    return np.asarray(make_degrade(SECOND_ORDER)(images, plan))


def pack(plan, seed=0):
    return camera.pack_camera(plan, seed, SIZE, 4)


def draw_plans(count):
    params = dataclasses.replace(CAMERA, noise_prob=0.0)
    rng = np.random.default_rng(4)
    return [camera.draw_camera(params, rng) for _ in range(count)]


def test_same_plan_gives_the_same_image_as_on_the_host():
    images, plans = make_images(), draw_plans(24)
    assert max(len(plan.lens) for plan in plans if plan.lens is not None) > 21
    expected = np.stack(
        [
            camera.apply_camera(*pair, 4, None)
            for pair in zip(images, plans, strict=True)
        ]
    )
    degraded = degrade(images, map(pack, plans))
    difference = np.abs(degraded.astype(int) - expected)
    is_jpeg = np.array([plan.quality is not None for plan in plans])
    assert 0 < is_jpeg.sum() < 24
    # The mean of 16 levels is often half-way between two.
    assert difference[~is_jpeg].max() <= 1
    assert difference[~is_jpeg].mean() < 0.01
    # A JPEG coefficient can fall to the other side of a half, but after a single JPEG
    # without another resize that is rarer than in `test_device_degradations`.
    assert psnr(degraded, expected)[is_jpeg].min() > 40


def test_mixed_batch_is_each_degradation_of_the_host():
    images = make_images(8)
    rounds = [
        dataclasses.replace(plan, is_bicubic=n < 2)
        for n, plan in enumerate(draw_second_order(SECOND_ORDER, 4))
    ]
    cameras = draw_plans(4)
    packed = [degradation_plan.pack(plan, SIZE, 4) for plan in rounds]
    packed += map(pack, cameras)
    expected = [
        camera.apply_camera(image, plan, 4, None)
        if isinstance(plan, camera.CameraPlan)
        else degradations.apply_plan(image, plan, 4)
        for image, plan in zip(images, rounds + cameras, strict=True)
    ]
    order = [4, 0, 2, 5, 1, 6, 3, 7]
    degraded = degrade(images[order], [packed[n] for n in order])
    scores = psnr(degraded, np.stack(expected)[order])
    assert scores.min() > 32
    assert np.median(scores) > 42
    bicubics = np.array(order) < 2
    assert scores[bicubics].min() > 60


def test_noise_has_the_variance_of_the_light():
    noises = [(0.01, 0.0), (0.0, 1e-3), (0.004, 2e-4), (0.004, 2e-4)]
    images = np.empty((len(noises), *SIZE, 3), np.uint8)
    images[:] = np.array([150, 100, 180, 180])[:, None, None, None]
    light = camera.to_linear(images[:, 0, 0, 0] / 255)
    plans = [
        dataclasses.replace(NOTHING, shot=shot, read=read) for shot, read in noises
    ]
    draws = 8
    degraded = np.concatenate(
        [
            degrade(images, [pack(plan, 10 * k + n) for n, plan in enumerate(plans)])
            for k in range(draws)
        ],
        2,
    )
    errors = camera.to_linear(degraded / 255) - light[:, None, None, None]
    shot, read = np.array(noises).T
    expected = shot * light + read
    # Of 4608 values the variance is right to 2 %, the mean to 1.5 % of a deviation.
    np.testing.assert_allclose(errors.var((1, 2, 3)), expected, rtol=0.08)
    assert (np.abs(errors.mean((1, 2, 3))) < 0.06 * np.sqrt(expected)).all()
    correlations = np.corrcoef(errors[2:].transpose(0, 3, 1, 2).reshape(6, -1))
    assert np.abs(correlations - np.eye(6)).max() < 0.1


def test_black_stays_black():
    """Where a blur's rounding leaves less than no light there is no NaN."""
    images = np.zeros((1, *SIZE, 3), np.uint8)
    images[:, :, :32] = 255
    plan = dataclasses.replace(NOTHING, lens=camera.disc_kernel(6.0), shot=0.01)
    degraded = degrade(images, [pack(plan)])
    np.testing.assert_array_equal(degraded[:, :, 10:], 0)
    assert degraded[:, :, :6].min() > 200


def test_default_mixture_runs_from_photographs_to_pairs():
    weights = default_config().data.degradations.to_dict()
    config = pipeline.PipelineConfig(32, degradations=weights, degrade_on="device")
    photos = make_images(8)
    dataset = pipeline.make_dataset(photos, config, seed=0, batch_size=40)
    plan = dataset[0]["plan"]
    kinds = plan["is_camera"] + 2 * plan["is_bicubic"]
    assert (np.bincount(kinds) >= 4).all()
    assert len(set(plan["noise_seed"])) == 40
    prepare = functools.partial(prepare_batch, params=config.widest_params())
    batch = jax.jit(prepare)(dataset[0])
    assert batch["image_lr"].dtype == np.uint8
    assert batch["image_lr"].shape == (40, 8, 8, 3)
    small = np.stack([degradations.bicubic(image) for image in dataset[0]["image_hr"]])
    scores = psnr(np.asarray(batch["image_lr"]), small)
    # Each is the crop that it came from, more or less damaged.
    assert scores.min() > 12
    assert scores[kinds == 2].min() > 50
    assert scores[kinds != 2].max() < 50
