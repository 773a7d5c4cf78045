"""Noise is told from blur, and what asks for texture counts less where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.training.noise_weights import added_noise, clean_weights


@pytest.fixture(scope="module")
def image_hr():
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((192, 192), Image.Resampling.BICUBIC)
    return to_unit_range(jnp.asarray(image)[None])


def reduced(image_hr):
    _, height, width, _ = image_hr.shape
    return jax.image.resize(image_hr, (1, height // 4, width // 4, 3), "cubic")


@pytest.mark.parametrize("sigma", [2.0, 10.0])
def test_white_noise_is_found(image_hr, sigma):
    clean = reduced(image_hr)
    noise = jax.random.normal(jax.random.key(0), clean.shape)
    found = added_noise(clean + sigma * 2 / 255 * noise, image_hr)
    # 6,912 numbers, of which the fit takes five: chance is one in a hundred.
    np.testing.assert_allclose(found, sigma, rtol=0.04)


def test_neither_blur_nor_contrast_is_noise(image_hr):
    clean = reduced(image_hr)
    blurred = gaussian_filter(np.asarray(clean), (0, 1, 1, 0), mode="nearest")
    lost = 255 / 2 * np.std(blurred - clean)
    assert added_noise(jnp.asarray(blurred), image_hr)[0] < lost / 20
    assert added_noise(0.6 * clean + 0.2, image_hr)[0] < 0.1


def test_a_flat_image_has_numbers():
    flat = jnp.full((1, 32, 32, 3), 0.3)
    assert added_noise(flat[:, :8, :8], flat)[0] < 0.1
    np.testing.assert_allclose(clean_weights(flat[:, :8, :8], flat, half_at=4.0), 1)


def test_the_weight_is_half_where_it_says(image_hr):
    clean = reduced(image_hr)
    noisy = clean + 0.05 * jax.random.normal(jax.random.key(1), clean.shape)
    level = float(added_noise(noisy, image_hr)[0])
    pair = jnp.concatenate([clean, noisy]), jnp.concatenate([image_hr, image_hr])
    weights = clean_weights(*pair, half_at=level)
    np.testing.assert_allclose(weights[1], 0.5, rtol=1e-4)
    assert weights[0] > 0.99
