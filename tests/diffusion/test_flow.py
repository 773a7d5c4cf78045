"""The flow's identities, and what each Prediction's output means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.diffusion import flow
from linearsr_jax.diffusion.flow import PREDICTIONS

SIGMAS = [0.05, 0.223, 0.5, 0.875, 1.0]


@pytest.fixture
def x0():
    return jax.random.normal(jax.random.key(0), (2, 3, 4, 5))


@pytest.fixture
def noise():
    return jax.random.normal(jax.random.key(1), (2, 3, 4, 5))


def close(actual, expected, atol=2e-6):
    """To a few roundings of float32 numbers of size 1 to 4."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=atol)


def test_ends_are_clean_and_noise(x0, noise):
    np.testing.assert_array_equal(flow.interpolate(x0, noise, 0.0), x0)
    np.testing.assert_array_equal(flow.interpolate(x0, noise, 1.0), noise)


def test_velocity_is_the_slope_in_sigma(x0, noise):
    step = 0.125
    for sigma in (0.0, 0.25, 0.875):
        change = flow.interpolate(x0, noise, sigma + step) - flow.interpolate(
            x0, noise, sigma
        )
        close(change, step * flow.velocity(x0, noise))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_velocity_leads_back_to_x0(x0, noise, sigma):
    x_sigma = flow.interpolate(x0, noise, sigma)
    velocity = flow.velocity(x0, noise)
    close(flow.x0_from_velocity(x_sigma, velocity, sigma), x0)


def test_sigma_broadcasts_per_sample(x0, noise):
    sigma = jnp.array([0.25, 1.0])[:, None, None, None]
    x_sigma = flow.interpolate(x0, noise, sigma)
    np.testing.assert_array_equal(x_sigma[1], noise[1])
    close(x_sigma[0], 0.75 * x0[0] + 0.25 * noise[0])


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.0, *SIGMAS])
def test_a_perfect_output_means_x0(name, sigma, x0, noise):
    prediction = PREDICTIONS[name]
    x_sigma = flow.interpolate(x0, noise, sigma)
    target = prediction.target(x0, noise, sigma)
    close(prediction.x0_hat(x_sigma, target, sigma), x0)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_x0_hat_uses_the_output(name, x0, noise):
    prediction = PREDICTIONS[name]
    change = prediction.x0_hat(x0, noise + 1.0, 0.5) - prediction.x0_hat(x0, noise, 0.5)
    assert np.all(np.abs(change) > 0.1)


def test_velocity_prediction_is_sanas(x0, noise):
    prediction = PREDICTIONS["velocity"]
    np.testing.assert_array_equal(prediction.network_input(x0, 0.3), x0)
    np.testing.assert_array_equal(prediction.target(x0, noise, 0.3), noise - x0)
    close(prediction.x0_hat(x0, noise, 0.25), x0 - 0.25 * noise)


class TestPreconditionedX0:
    prediction = PREDICTIONS["preconditioned_x0"]

    def test_pure_noise_is_invisible(self, x0, noise):
        assert not np.any(self.prediction.network_input(100 * noise, 1.0))
        zero = jnp.zeros_like(noise)
        assert not np.any(self.prediction.x0_hat(100 * noise, zero, 1.0))
        np.testing.assert_array_equal(self.prediction.x0_hat(noise, x0, 1.0), x0)

    def test_clean_latents_are_seen_whole(self, x0, noise):
        np.testing.assert_array_equal(self.prediction.network_input(x0, 0.0), x0)
        np.testing.assert_array_equal(self.prediction.x0_hat(x0, noise, 0.0), x0)

    @pytest.mark.parametrize("sigma", [0.0, *SIGMAS])
    def test_target_has_unit_variance(self, sigma):
        """The target is a x0 + b noise: for unit-variance data a^2 + b^2."""
        a = self.prediction.target(1.0, 0.0, sigma)
        b = self.prediction.target(0.0, 1.0, sigma)
        assert float(a**2 + b**2) == pytest.approx(1.0, abs=1e-6)

    @pytest.mark.parametrize("sigma", [0.0, *SIGMAS])
    def test_input_is_the_best_linear_estimate(self, sigma):
        """What is left of x0 is uncorrelated with x_sigma."""
        seen_x0 = self.prediction.network_input(1.0 - sigma, sigma)
        seen_noise = self.prediction.network_input(sigma, sigma)
        correlation = (1.0 - seen_x0) * (1.0 - sigma) - seen_noise * sigma
        assert float(correlation) == pytest.approx(0.0, abs=1e-6)

    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_velocity_of_its_docstring(self, sigma, x0, noise):
        x_sigma, output = x0, noise
        s = np.sqrt((1 - sigma) ** 2 + sigma**2)
        claimed = ((2 * sigma - 1) * x_sigma / s - output) / s
        x0_hat = self.prediction.x0_hat(x_sigma, output, sigma)
        actual = (x_sigma - x0_hat) / sigma
        close(actual, claimed, atol=2e-6 / sigma)

    def test_sigma_broadcasts_per_sample(self, x0, noise):
        sigma = jnp.array([0.25, 0.75])[:, None, None, None]
        x_sigma = flow.interpolate(x0, noise, sigma)
        whole = self.prediction.x0_hat(x_sigma, noise, sigma)
        for i, level in enumerate((0.25, 0.75)):
            one = self.prediction.x0_hat(x_sigma[i], noise[i], level)
            close(whole[i], one, atol=1e-6)
