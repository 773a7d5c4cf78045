"""The loss: its terms, whom they are for, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.config.defaults import default_config
from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.metrics import lpips_vgg
from linearsr_jax.metrics.lpips import compare_features, load_lpips
from linearsr_jax.metrics.vgg16 import VggWeightsError, make_pair_metric
from linearsr_jax.models.presets import get_preset
from linearsr_jax.training import losses
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.setup import make_parts
from linearsr_jax.training.sharpening import sharpened
from linearsr_jax.training.views import take_view
from tests.models.test_blocks import random_like
from tests.vgg16_testing import random_vgg16

PRESET, CODEC = get_preset("debug"), PixelCodec()
MODEL = PRESET.make_model()
SIGMA = np.array([0.1, 0.9, 0.25, 0.3], np.float32)


@pytest.fixture(scope="module")
def params():
    # Not the initial ones: their head is zero, which hides most mistakes.
    return random_like(jax.eval_shape(MODEL.init_params, jax.random.key(0)), scale=0.05)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image_hr": rng.integers(0, 256, (4, 44, 48, 3), dtype=np.uint8),
        "image_lr": rng.integers(0, 256, (4, 11, 12, 3), dtype=np.uint8),
    }


def make_loss(**fields):
    return Loss(MODEL, PRESET, mass_at_one=0.0, **fields)


def fixed_draws(loss, batch, sigma=SIGMA):
    """The loss' own draws, their noise levels replaced before the weights are made."""
    draws = loss.draw(jax.random.key(1), batch, CODEC)
    return loss.weigh(sigma, draws.noise, draws.views)


def implied_images(params, batch, draws):
    """What the image terms compare: the decoded x0_hat and the photograph."""
    prediction = PREDICTIONS[PRESET.prediction]
    image_hr, image_lr = (to_unit_range(batch[f"image_{x}"]) for x in ("hr", "lr"))
    level = draws.sigma[:, None, None, None]
    x_sigma = (1 - level) * CODEC.encode(image_hr, image_lr) + level * draws.noise
    seen = prediction.network_input(x_sigma, level)
    output = MODEL.apply({"params": params}, seen, draws.sigma, image_lr)
    x0_hat = prediction.x0_hat(x_sigma, output, level)
    return CODEC.decode(x0_hat, image_lr), image_hr, output, level


@pytest.fixture(scope="module")
def flow_only(params, batch):
    loss = make_loss()
    draws = fixed_draws(loss, batch)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, CODEC, batch, draws)


def test_flow_loss_is_the_mean_square_to_the_target(params, batch, flow_only):
    (total, (values, _)), _ = flow_only
    draws = fixed_draws(make_loss(), batch)
    _, image_hr, output, level = implied_images(params, batch, draws)
    x0 = CODEC.encode(image_hr, to_unit_range(batch["image_lr"]))
    # The target of PreconditionedX0, in float64.
    s, x0, noise = (np.asarray(x, np.float64) for x in (level, x0, draws.noise))
    target = (s * x0 - (1 - s) * noise) / np.sqrt((1 - s) ** 2 + s**2)
    expected = np.mean((np.asarray(output, np.float64) - target) ** 2, axis=(1, 2, 3))
    assert values.keys() == {"flow"}
    np.testing.assert_allclose(values["flow"], expected, rtol=1e-4)
    np.testing.assert_allclose(total, expected.mean(), rtol=1e-4)


@pytest.fixture(scope="module")
def with_terms(params, batch):
    loss = make_loss(l1=3.0, lpips=0.5, below_sigma=0.3)
    draws = fixed_draws(loss, batch)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, CODEC, batch, draws)


def test_image_terms_are_means_over_nearly_clean_samples(
    params, batch, flow_only, with_terms
):
    """Below 0.3 are samples 0 and 2 of SIGMA; 0.3 itself is not."""
    (total, (values, _)), grads = with_terms
    draws = fixed_draws(make_loss(), batch)
    image_hat, image_hr, *_ = implied_images(params, batch, draws)
    chosen = [0, 2]
    difference = np.asarray(image_hat, np.float64) - np.asarray(image_hr)
    expected_l1 = np.mean(np.abs(difference), axis=(1, 2, 3))[chosen]
    np.testing.assert_allclose(values["l1"][np.array(chosen)], expected_l1, rtol=1e-4)
    # The metric itself takes 8-bit images, so it is only near.
    lpips = load_lpips()
    viewed = [np.asarray(take_view(x, draws.views)) for x in (image_hat, image_hr)]
    levels = [np.clip(np.round((x + 1) * 127.5), 0, 255).astype("u1") for x in viewed]
    expected_lpips = [lpips(levels[0][i], levels[1][i]) for i in chosen]
    np.testing.assert_allclose(
        values["lpips"][np.array(chosen)], expected_lpips, rtol=0.05
    )
    expected = (
        flow_only[0][0]
        + 3.0 * expected_l1.mean()
        + 0.5 * values["lpips"][0] / 2
        + 0.5 * values["lpips"][2] / 2
    )
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_only_l1_aims_at_the_sharpened_photograph(params, batch, with_terms):
    terms = {"l1": 3.0, "lpips": 0.5, "below_sigma": 0.3}
    loss = make_loss(**terms, half_at_noise=6.0, sharpen=0.8)
    draws = fixed_draws(loss, batch)
    clean = jnp.array([0.25, 1.0, 1.0, 1.0])
    draws = loss.weigh(SIGMA, draws.noise, draws.views, clean)
    np.testing.assert_allclose(draws.sharpening, [0.6, 0, 0, 0], rtol=1e-6)
    _, (values, _) = jax.jit(loss)(params, CODEC, batch, draws)
    image_hat, image_hr, *_ = implied_images(params, batch, draws)
    target = sharpened(image_hr, np.array([0.6, 0, 0, 0], np.float32))
    difference = np.asarray(image_hat, np.float64) - np.asarray(target)
    chosen = np.array([0, 2])
    expected = np.mean(np.abs(difference), axis=(1, 2, 3))[chosen]
    np.testing.assert_allclose(values["l1"][chosen], expected, rtol=1e-4)
    lpips = with_terms[0][1][0]["lpips"]
    np.testing.assert_allclose(values["lpips"][chosen], lpips[chosen], rtol=1e-4)


def test_sharpening_needs_to_know_what_is_noisy():
    with pytest.raises(ValueError, match=r"loss\.sharpen needs loss\.half_at_noise"):
        make_loss(l1=1.0, sharpen=0.5)


def test_terms_without_samples_change_nothing(params, batch, flow_only):
    loss = make_loss(l1=3.0, lpips=0.5, below_sigma=0.05)
    draws = fixed_draws(loss, batch)
    (total, _), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params, CODEC, batch, draws
    )
    np.testing.assert_allclose(total, flow_only[0][0], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        grads,
        flow_only[1],
    )


def test_lpips_has_a_finite_gradient_where_features_are_dead():
    """A black and a flat image: whole layers of AlexNet are 0 somewhere."""
    from linearsr_jax.metrics.lpips import load_parameters, lpips_distance

    params = load_parameters()
    params["conv2.bias"] = jnp.full_like(params["conv2.bias"], -1e3)
    image = jnp.full((1, 32, 32, 3), -1.0)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(lpips_distance(params, x, image + 0.5))))(
        image
    )
    assert np.all(np.isfinite(grad))
    assert np.any(grad != 0)


def test_lpips_vgg_is_the_metric_of_the_middle_of_a_view(monkeypatch):
    """By the metric, which tests/metrics compares with numpy; here of 64 x 64."""
    weights = random_vgg16()
    monkeypatch.setattr(losses, "load_vgg16", lambda: weights)
    term = losses.IMAGE_TERMS["lpips_vgg"]()
    rng = np.random.default_rng(5)
    levels = rng.integers(0, 256, (2, 1, 72, 70, 3), dtype=np.uint8)
    image_hat, image_hr = (to_unit_range(jnp.asarray(x)) for x in levels)
    value, grad = jax.value_and_grad(lambda x: term(x, image_hr)[0])(image_hat)
    metric = make_pair_metric(weights, lpips_vgg._extract, compare_features)
    expected = metric(*levels[:, 0, 4:68, 3:67])
    assert value == pytest.approx(expected, rel=1e-4)
    # What it does not see has no gradient, and the rest has that of differences.
    inside = np.zeros((72, 70, 3), bool)
    inside[4:68, 3:67] = True
    np.testing.assert_array_equal(grad[0][~inside], 0)
    step = 0.01 * (image_hr - image_hat)
    rise = term(image_hat + step, image_hr)[0] - term(image_hat - step, image_hr)[0]
    assert rise < 0
    assert np.sum(grad * 2 * step) == pytest.approx(float(rise), rel=0.02)


def test_lpips_vgg_without_weights_is_named(monkeypatch, tmp_path):
    def absent():
        raise VggWeightsError("install them")

    monkeypatch.setattr(losses, "load_vgg16", absent)
    config = default_config()
    config.data.folder = str(tmp_path)
    config.loss.lpips_vgg = 1.0
    with pytest.raises(TrainError, match=r"loss\.lpips_vgg: install them"):
        make_parts(config)
    config.data.crop_size = 40
    with pytest.raises(TrainError, match=r"too small for loss\.lpips_vgg; set 43"):
        make_parts(config)


@pytest.mark.parametrize("fields", [{"l2": 1.0}, {"l1": -1.0}, {"lpips": np.nan}])
def test_unusable_weights(fields):
    with pytest.raises(ValueError, match="weight of one of l1, lpips"):
        make_loss(**fields)


def test_draws_do_not_depend_on_the_terms(batch):
    key = jax.random.key(3)
    plain = make_loss().draw(key, batch, CODEC)
    other = make_loss(l1=1.0, below_sigma=0.5).draw(key, batch, CODEC)
    np.testing.assert_array_equal(plain.sigma, other.sigma)
    np.testing.assert_array_equal(plain.noise, other.noise)


def test_what_asks_for_texture_counts_less_in_noise(batch):
    """The random LR images of the batch are noise, but the last, made of its HR one."""
    last = to_unit_range(jnp.asarray(batch["image_hr"][3:]))
    reduced = jax.image.resize(last, (1, 11, 12, 3), "cubic")
    image_lr = np.array(batch["image_lr"])
    image_lr[3:] = np.clip(np.rint((np.asarray(reduced) + 1) * 127.5), 0, 255)
    batch = {**batch, "image_lr": image_lr}
    fields = {"l1": 1.0, "lpips": 2.0, "below_sigma": 2.0}
    key = jax.random.key(4)
    plain = make_loss(**fields).draw(key, batch, CODEC).weights
    found = make_loss(**fields, half_at_noise=4.0).draw(key, batch, CODEC).weights
    np.testing.assert_allclose(plain["lpips"], 0.5)
    assert np.all(found["lpips"][:3] < 0.01 * plain["lpips"][:3])
    np.testing.assert_allclose(found["lpips"][3], plain["lpips"][3], rtol=0.1)
    for name in ("l1", "flow"):
        np.testing.assert_array_equal(found[name], plain[name])
