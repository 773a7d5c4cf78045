"""Random views: exact where they are not scaled, inside the image, and why they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.training.views import SCALES, SIDE, draw_views, take_view


@pytest.fixture(scope="module")
def views():
    return np.asarray(draw_views(jax.random.key(0), 2000))


def test_half_are_not_scaled_the_others_are_within_limits(views):
    scale = views[:, 0]
    assert 0.45 < np.mean(scale == 1) < 0.55
    others = scale[scale != 1]
    assert SCALES[0] <= others.min() < 0.8
    assert 1.25 < others.max() <= SCALES[1] + 1e-6
    assert abs(np.log(others).mean()) < 0.02


def test_not_scaled_is_a_crop_at_whole_pixels(views):
    image = np.random.default_rng(0).uniform(-1, 1, (64, 32, 32, 3)).astype(np.float32)
    own = views[views[:, 0] == 1][:64]
    taken = np.asarray(jax.jit(take_view)(image, own))
    assert taken.shape == (64, 24, 24, 3)
    places = set()
    for one, crop in zip(image, taken, strict=True):
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.allclose(one[top : top + 24, left : left + 24], crop, atol=1e-6)
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 32


def test_scaled_shows_a_ramp_where_it_says(views):
    """A ramp stays a ramp, its slope over the scale, and shows nothing from outside."""
    ramp = np.broadcast_to(np.arange(64.0)[:, None, None], (40, 64, 64, 3))
    own = views[views[:, 0] != 1][:40]
    taken = np.asarray(jax.jit(take_view)(ramp.astype(np.float32), own))[:, :, 5, 0]
    middle = slice(16, 32)
    slopes = np.mean(np.diff(taken[:, middle], axis=1), axis=1)
    np.testing.assert_allclose(slopes, 1 / own[:, 0], rtol=0.02)
    assert taken.min() >= -0.5
    assert taken.max() <= 63.5


def test_no_grid_stays_in_place(views):
    """A pattern of period 4, in phase with the image, has no phase in the views.

    That is what keeps AlexNet, whose first layer steps four pixels, from rewarding it.
    """
    wave = np.cos(2 * np.pi * np.arange(64) / 4)
    image = np.broadcast_to(wave[:, None, None], (500, 64, 64, 3)).astype(np.float32)
    taken = np.asarray(jax.jit(take_view)(image, views[:500]))
    carrier = np.exp(-2j * np.pi * np.arange(int(64 * SIDE)) / 4)
    phases = (taken[..., 0, 0] * carrier).mean(1)
    assert np.abs(phases).mean() > 0.2
    assert np.abs(phases.mean()) < 0.05


def test_gradient_reaches_the_image():
    image = jnp.ones((2, 32, 32, 3))
    views = draw_views(jax.random.key(1), 2)
    gradient = jax.grad(lambda x: jnp.sum(take_view(x, views)))(image)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
