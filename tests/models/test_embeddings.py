"""Whole timesteps and places of tokens, as SANA's published weights need them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.diffusion.schedule import sigma_grid
from linearsr_jax.models.embeddings import (
    TimeEmbedding,
    position_embedding,
    timestep_features,
)
from linearsr_jax.models.presets import get_preset


def np_position(grid, width, extent):
    """Token by token and channel by channel, from the definition."""
    quarter = width // 4
    rows = []
    for i in range(grid[0]):
        for j in range(grid[1]):
            x, y = extent * j / grid[1], extent * i / grid[0]
            rows.append(
                [
                    wave(place * 10000.0 ** (-k / quarter))
                    for place in (x, y)
                    for wave in (np.sin, np.cos)
                    for k in range(quarter)
                ]
            )
    return np.array(rows)


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (7, 3), (64, 64)])
def test_position_equals_the_definition(grid):
    actual = position_embedding(grid, 24, 64.0)
    assert actual.dtype == jnp.float32
    # Places go to 64; SANA rounds them to float32.
    np.testing.assert_allclose(actual, np_position(grid, 24, 64.0), atol=5e-6)


def test_twice_the_grid_halves_the_spacing():
    coarse = position_embedding((4, 6), 16, 8.0).reshape(4, 6, 16)
    fine = position_embedding((8, 12), 16, 8.0).reshape(8, 12, 16)
    np.testing.assert_array_equal(fine[::2, ::2], coarse)


def test_timesteps_are_whole_and_below_1000():
    sigma = jnp.array([0.0, 0.4994, 0.49999, 0.7501, 0.9995, 1.0])
    actual = timestep_features(sigma, floor=True)
    expected = timestep_features(jnp.array([0.0, 0.499, 0.499, 0.75, 0.999, 0.999]))
    np.testing.assert_array_equal(actual, expected)
    assert np.any(np.asarray(timestep_features(sigma)) != actual)


@pytest.mark.parametrize("steps", [1, 4, 8, 14, 20, 28, 50])
def test_sampling_feeds_the_published_timesteps(steps):
    """diffusers' Flow-DPM-Solver: float64 levels, times 1000, cut to integers."""
    u = 1 - np.linspace(1, 0.001, steps + 1)
    theirs = (1000 * np.flip(3 * u / (1 + 2 * u))[:-1]).astype(np.int64)
    sigmas = sigma_grid(steps, shift=3.0, unshifted_start=0.999)[:-1].astype(np.float32)
    np.testing.assert_array_equal(jnp.floor(1000 * sigmas), theirs)


def test_sana_presets_feed_whole_timesteps_and_others_do_not():
    assert get_preset("600m").floor_timestep
    assert not get_preset("nano").floor_timestep
    sigma = jnp.array([0.3001, 0.3009])
    for floor in (False, True):
        module = TimeEmbedding(8, floor, jnp.float32)
        params = module.init(jax.random.key(0), sigma)
        (one, other), _ = module.apply(params, sigma)
        assert np.array_equal(one, other) == floor
    preset = dataclasses.replace(get_preset("debug"), floor_timestep=True)
    assert preset.make_model().floor_timestep
