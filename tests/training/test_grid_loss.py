"""The loss term against a grid: a closed form, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.training.grid_loss import CONTRAST, grid_term

FLAT = jnp.zeros((1, 64, 64, 3))
# A sine of period 4 along the columns.
SINE = jnp.broadcast_to(jnp.sin(jnp.arange(64) * jnp.pi / 2)[:, None], (1, 64, 64))


@pytest.mark.parametrize("amplitude", [0.02, 0.1])
def test_a_sine_on_flat_truth_counts_by_its_root_mean_square(amplitude):
    grid = amplitude * SINE[..., None] + FLAT
    expected = (np.hypot(amplitude / np.sqrt(2), 1e-3) - 1e-3) / CONTRAST
    np.testing.assert_allclose(grid_term(grid, FLAT), [expected], rtol=1e-5)


@pytest.mark.parametrize("period", [8, 16, 32])
def test_longer_periods_do_not_count(period):
    wave = np.sin(2 * np.pi * np.arange(64) / period)
    wave = jnp.asarray(0.1 * wave, jnp.float32)[None, None, :, None] + FLAT
    np.testing.assert_allclose(grid_term(wave, FLAT), [0.0], atol=1e-4)


def test_textured_truth_hides_a_grid():
    texture = 0.3 * jax.random.normal(jax.random.key(0), FLAT.shape)
    grid = 0.02 * SINE[..., None]
    on_texture = grid_term(grid + texture, texture)
    assert on_texture[0] < grid_term(grid + FLAT, FLAT)[0] / 10


def test_the_gradient_at_equal_images_is_zero_and_finite():
    gradient = jax.grad(lambda image: grid_term(image, FLAT)[0])(FLAT)
    np.testing.assert_array_equal(gradient, 0.0)


def test_what_has_no_whole_window_is_refused():
    with pytest.raises(ValueError, match="at least 32 pixels, got 28x64"):
        grid_term(FLAT[:, :28], FLAT[:, :28])
