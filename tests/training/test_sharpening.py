"""Sharpened photographs, against SciPy's Gaussian filter."""

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter

from linearsr_jax.training.sharpening import SIGMA, sharpened


def test_it_adds_what_a_gaussian_takes_away():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 64, 60, 3)).astype(np.float32)
    amounts = np.array([0.3, 0.8], np.float32)
    found = sharpened(jnp.asarray(image), jnp.asarray(amounts))
    blurred = gaussian_filter(np.float64(image), (0, SIGMA, SIGMA, 0), truncate=8)
    expected = image + amounts[:, None, None, None] * (image - blurred)
    # Near the border SciPy makes pixels up, where here there are none.
    inside = (slice(None), slice(20, -20), slice(20, -20))
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-5)


def test_a_flat_image_stays_up_to_its_border():
    image = jnp.full((1, 9, 30, 3), 0.7)
    np.testing.assert_allclose(sharpened(image, jnp.array([2.0])), image, atol=1e-5)
