"""The discriminator: its sizes, what it sees, and its spectral norm against SVD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from linearsr_jax.models.discriminator import (
    UNetDiscriminator,
    normalize_spectrum,
    random_directions,
    space_to_depth,
    turn_directions,
)

NETWORK = UNetDiscriminator(width=4)


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, 16, 24, 3)))["params"]


def singular_values(params):
    flat = traverse_util.flatten_dict(params, sep="/")
    return {
        name: np.linalg.svd(np.reshape(x, (-1, x.shape[-1])), compute_uv=False)[0]
        for name, x in flat.items()
        if name.endswith("kernel")
    }


def test_four_logits_for_2x2_pixels(params):
    logits = NETWORK.apply({"params": params}, jnp.zeros((2, 16, 24, 3)))
    assert logits.shape == (2, 8, 12, 4)


def test_space_to_depth_keeps_pixels_together():
    image = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    deep = space_to_depth(image)
    assert deep.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(deep[1, 1, 2].reshape(2, 2, 3), image[1, 2:4, 4:6])


def test_normalised_kernels_have_spectral_norm_one(params):
    directions = random_directions(jax.random.key(1), params)
    for _ in range(300):
        directions = turn_directions(params, directions)
    before = singular_values(params)
    after = singular_values(normalize_spectrum(params, directions))
    assert before.keys() == after.keys()
    kept = {"first/kernel", "last/kernel"}
    for name, value in after.items():
        if name in kept:
            assert value == before[name]
        else:
            assert value == pytest.approx(1.0, abs=1e-4)
            assert abs(before[name] - 1) > 1e-3


def test_gradient_is_that_of_the_largest_singular_value(params):
    """d sigma / dW = u v', by which a step along W itself changes nothing."""
    directions = random_directions(jax.random.key(1), params)
    for _ in range(300):
        directions = turn_directions(params, directions)
    _, along = jax.jvp(
        lambda p: normalize_spectrum(p, directions), (params,), (params,)
    )
    flat = traverse_util.flatten_dict(along, sep="/")
    for name, change in flat.items():
        if name.endswith("kernel") and name.split("/")[0] not in ("first", "last"):
            assert np.abs(change).max() < 1e-5


def test_sees_every_pixel(params):
    image = jnp.asarray(
        np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)), jnp.float32
    )
    gradient = jax.grad(lambda x: jnp.sum(NETWORK.apply({"params": params}, x)))(image)
    assert (np.abs(gradient) > 0).all()
