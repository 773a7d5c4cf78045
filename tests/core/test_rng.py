"""Random streams and the noise that does not depend on the image's size."""

import jax
import numpy as np
import pytest

from linearsr_jax.core.rng import NOISE_BLOCK, block_noise, stream_key

LARGE = (2 * NOISE_BLOCK + 5, NOISE_BLOCK + 9)


def data(key):
    return tuple(int(word) for word in jax.random.key_data(key))


def noise(height, width, channels=3, seed=0):
    return np.asarray(block_noise(stream_key(seed, "noise"), height, width, channels))


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 1),
        (NOISE_BLOCK, NOISE_BLOCK),
        (NOISE_BLOCK + 1, NOISE_BLOCK - 1),
        (7, LARGE[1]),
        (LARGE[0], 7),
        LARGE,
    ],
)
def test_a_smaller_images_noise_is_the_top_left_of_a_larger_ones(height, width):
    part = noise(height, width)
    assert part.shape == (height, width, 3)
    np.testing.assert_array_equal(part, noise(*LARGE)[:height, :width])


def test_blocks_differ_from_each_other():
    whole = noise(2 * NOISE_BLOCK, 2 * NOISE_BLOCK)
    half = slice(None, NOISE_BLOCK), slice(NOISE_BLOCK, None)
    blocks = [whole[rows, columns] for rows in half for columns in half]
    for i in range(4):
        for j in range(i):
            # Independent blocks correlate like 1/sqrt(3072), four times that at most.
            correlation = np.corrcoef(blocks[i].ravel(), blocks[j].ravel())[0, 1]
            assert abs(correlation) < 4 / np.sqrt(blocks[i].size)


def test_noise_is_unit_normal():
    values = noise(3 * NOISE_BLOCK, 3 * NOISE_BLOCK, channels=8).astype(np.float64)
    n = values.size
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    # A normal's fourth moment is 3, with variance 96.
    assert abs(np.mean(values**4) - 3) < 4 * np.sqrt(96 / n)
    # Along each axis: not one row, column or channel repeated.
    for axis in range(3):
        assert np.all(np.std(values, axis=axis) > 0.2)


def test_streams_differ_by_every_coordinate():
    keys = [
        stream_key(seed, name, *indices)
        for seed in (0, 1, 2**32 - 1)
        for name in ("noise", "train_step", "")
        for indices in ((), (0,), (1,), (2,), (1, 2), (2, 1), (0, 0), (1, 2, 0))
    ]
    assert len({data(key) for key in keys}) == len(keys)


def test_the_order_of_indices_matters():
    assert data(stream_key(0, "a", 3, 5)) != data(stream_key(0, "a", 5, 3))


def test_noise_of_different_seeds_and_streams_is_unrelated():
    one = noise(8, 8)
    assert not np.any(one == noise(8, 8, seed=1))
    other = block_noise(stream_key(0, "other"), 8, 8, 3)
    assert not np.any(one == np.asarray(other))


def test_a_stream_can_be_repeated_and_traced():
    expected = data(stream_key(7, "train_step", 123))
    assert data(stream_key(7, "train_step", 123)) == expected
    traced = jax.jit(lambda step: stream_key(7, "train_step", step))(123)
    assert data(traced) == expected


def test_names_give_the_same_key_in_every_process():
    """CRC-32, not Python's hash, which is salted per process."""
    named = jax.random.fold_in(jax.random.key(0), 0xFDA99629)
    assert data(stream_key(0, "noise")) == data(named)
