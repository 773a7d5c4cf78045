"""Classifier-free guidance."""

import jax
import numpy as np

from linearsr_jax.diffusion.flow import x0_from_velocity
from linearsr_jax.diffusion.guidance import guide

UNCONDITIONAL, CONDITIONAL, X = jax.random.normal(jax.random.key(0), (3, 2, 3, 4))


def test_one_is_the_conditional_output():
    np.testing.assert_allclose(
        guide(UNCONDITIONAL, CONDITIONAL, 1.0), CONDITIONAL, atol=1e-6
    )


def test_zero_is_the_unconditional_output():
    np.testing.assert_array_equal(guide(UNCONDITIONAL, CONDITIONAL, 0.0), UNCONDITIONAL)


def test_extrapolates_beyond_the_conditional_output():
    assert guide(2.0, 3.0, 4.5) == 6.5


def test_equal_outputs_are_left_alone():
    np.testing.assert_array_equal(guide(X, X, 4.5), X)


def test_guiding_velocity_guides_x0():
    sigma, scale = 0.6, 4.5
    velocity = guide(UNCONDITIONAL, CONDITIONAL, scale)
    x0 = guide(
        x0_from_velocity(X, UNCONDITIONAL, sigma),
        x0_from_velocity(X, CONDITIONAL, sigma),
        scale,
    )
    np.testing.assert_allclose(x0_from_velocity(X, velocity, sigma), x0, atol=1e-5)
