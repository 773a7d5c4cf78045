"""Mixtures of degradations: frequencies, order, and what is refused."""

import numpy as np
import pytest
import scipy.stats

from linearsr_jax.data import camera, degradations, degrading
from linearsr_jax.data.degradation_params import CAMERA, STANDARD

WEIGHTS = {"bicubic": 5.0, "light": 4.0, "standard": 0.0, "camera": 11.0}


def draw(weights, count):
    rng = np.random.default_rng(0)
    return [degrading.draw_name(weights, rng) for _ in range(count)]


def test_names_are_drawn_by_their_weights():
    drawn = draw(WEIGHTS, 4000)
    counts = [drawn.count(name) for name in ("bicubic", "light", "camera")]
    assert sum(counts) == 4000
    expected = 4000 * np.array([0.25, 0.2, 0.55])
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4


def test_the_order_in_a_config_does_not_matter():
    turned = dict(reversed(WEIGHTS.items()))
    assert draw(turned, 200) == draw(WEIGHTS, 200)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"heavy": 1.0}, "'heavy'"),
        ({"light": -0.1, "bicubic": 1.0}, r"degradations\.light must be at least 0"),
        ({"light": float("nan")}, r"degradations\.light"),
        ({"light": 0.0}, "a weight above 0"),
        ({}, "a weight above 0"),
    ],
)
def test_what_is_no_mixture_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        degrading.check_weights(weights)


@pytest.mark.parametrize("name", ["bicubic", "standard", "camera"])
def test_each_name_is_its_degradation(name):
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    own = {
        "bicubic": lambda rng: degradations.bicubic(image, 4),
        "standard": lambda rng: degradations.degrade(image, STANDARD, 4, rng),
        "camera": lambda rng: camera.degrade(image, CAMERA, 4, rng),
    }[name]
    expected = own(np.random.default_rng(2))
    lr = degrading.degrade_by_name(image, name, 4, np.random.default_rng(2))
    np.testing.assert_array_equal(lr, expected)


@pytest.mark.parametrize("name", ["bicubic", "standard", "camera"])
def test_plans_of_all_names_stack(name):
    light = degrading.draw_packed("light", (32, 64), 4, np.random.default_rng(0))
    packed = degrading.draw_packed(name, (32, 64), 4, np.random.default_rng(0))
    assert {key: (x.shape, x.dtype) for key, x in packed.items()} == {
        key: (x.shape, x.dtype) for key, x in light.items()
    }
    assert packed["is_bicubic"] == (name == "bicubic")
    assert packed["is_camera"] == (name == "camera")
