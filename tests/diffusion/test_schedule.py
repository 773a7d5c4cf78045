"""Shift and the sampler's grid, as properties and published digits."""

import numpy as np
import pytest

from linearsr_jax.diffusion.schedule import (
    TIMESTEP_SCALE,
    shift_sigma,
    sigma_grid,
    unshift_sigma,
)

SIGMAS = np.linspace(0.0, 1.0, 101)
INNER = SIGMAS[1:-1]
SHIFTS = [0.5, 1.0, 3.0, 4.0, 6.0]

# diffusers' timesteps at shift 3: 20 and 14 are its usual step counts.
PUBLISHED = {
    20: [
        *(999, 982, 963, 944, 922, 899, 874, 847, 817, 785),
        *(749, 710, 666, 617, 562, 499, 428, 345, 249, 136),
    ],
    14: [999, 974, 947, 916, 881, 843, 799, 749, 691, 624, 545, 449, 333, 187],
    4: [999, 899, 749, 499],
    1: [999],
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_unshift_inverts_shift(shift):
    np.testing.assert_allclose(
        unshift_sigma(shift_sigma(SIGMAS, shift), shift), SIGMAS, atol=1e-15
    )
    np.testing.assert_allclose(
        shift_sigma(unshift_sigma(SIGMAS, shift), shift), SIGMAS, atol=1e-15
    )


@pytest.mark.parametrize("shift", SHIFTS)
def test_shift_keeps_the_ends_and_the_order(shift):
    sigma = shift_sigma(SIGMAS, shift)
    assert sigma[0] == 0.0
    assert sigma[-1] == 1.0
    assert np.all(np.diff(sigma) > 0)


def test_shift_above_one_moves_towards_noise():
    assert np.all(shift_sigma(INNER, 3.0) > INNER)
    np.testing.assert_array_equal(shift_sigma(SIGMAS, 1.0), SIGMAS)
    assert shift_sigma(0.5, 3.0) == pytest.approx(0.75, abs=1e-15)


@pytest.mark.parametrize("shift", SHIFTS)
def test_shift_lowers_log_snr_by_twice_its_log(shift):
    def log_snr(sigma):
        return 2.0 * (np.log1p(-sigma) - np.log(sigma))

    moved = log_snr(shift_sigma(INNER, shift)) - log_snr(INNER)
    np.testing.assert_allclose(moved, -2.0 * np.log(shift), atol=1e-12)


@pytest.mark.parametrize("steps", PUBLISHED)
def test_grid_gives_the_published_timesteps(steps):
    grid = sigma_grid(steps, shift=3.0, unshifted_start=0.999)
    timesteps = [int(TIMESTEP_SCALE * sigma) for sigma in grid[:-1]]
    assert timesteps == PUBLISHED[steps]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("unshifted_start", [0.7, 0.999, 1.0])
def test_grid_is_uniform_before_the_shift(shift, unshifted_start):
    grid = sigma_grid(7, shift=shift, unshifted_start=unshifted_start)
    assert grid.shape == (8,)
    assert grid.dtype == np.float64
    assert grid[-1] == 0.0
    assert np.all(np.diff(grid) < 0)
    np.testing.assert_allclose(
        unshift_sigma(grid, shift),
        unshifted_start * np.arange(7, -1, -1) / 7,
        atol=1e-15,
    )


def test_grid_starts_at_exactly_one():
    assert sigma_grid(3, shift=3.0, unshifted_start=1.0)[0] == 1.0


@pytest.mark.parametrize("steps", [0, -1])
def test_grid_refuses_no_steps(steps):
    with pytest.raises(ValueError, match="steps"):
        sigma_grid(steps, shift=1.0, unshifted_start=1.0)


@pytest.mark.parametrize("unshifted_start", [0.0, -0.1, 1.001, float("nan")])
def test_grid_refuses_a_start_outside_the_range(unshifted_start):
    with pytest.raises(ValueError, match="unshifted_start"):
        sigma_grid(2, shift=1.0, unshifted_start=unshifted_start)
