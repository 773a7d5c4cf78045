"""LR-PSNR: closed forms, and what it is blind to and what not."""

import numpy as np
import pytest

from linearsr_jax.metrics.lr_consistency import lr_psnr


def test_constant_offset():
    lr = np.full((6, 7, 3), 100, np.uint8)
    sr = np.full((24, 28, 3), 104, np.uint8)
    expected = 10 * np.log10(1 / ((4 / 255) ** 2 + 1e-8))
    assert lr_psnr(sr, lr) == pytest.approx(expected, abs=1e-9)


def test_the_image_it_was_made_from_gives_the_limit():
    lr = np.full((6, 7, 3), 100, np.uint8)
    for scale in (1, 2, 4):
        sr = np.full((scale * 6, scale * 7, 3), 100, np.uint8)
        assert lr_psnr(sr, lr) == pytest.approx(80, abs=1e-9)


def test_fine_detail_is_free_but_colour_is_not():
    lr = np.full((8, 8, 3), 100, np.uint8)
    sr = np.full((32, 32, 3), 100, np.uint8)
    detailed = sr.copy()
    detailed[::2] += 10
    detailed[1::2] -= 10
    # Equal in luma to a level, so invisible to a measure of Y.
    tinted = sr.copy()
    tinted[..., 0] += 30
    tinted[..., 1] -= 15
    assert lr_psnr(detailed, lr) > 45
    assert lr_psnr(tinted, lr) < 25


def test_the_arrays_are_checked():
    lr = np.zeros((6, 7, 3), np.uint8)
    for shape in ((24, 27, 3), (5, 7, 3), (24, 14, 3)):
        with pytest.raises(ValueError, match="whole multiple"):
            lr_psnr(np.zeros(shape, np.uint8), lr)
    with pytest.raises(ValueError, match="lr must be uint8"):
        lr_psnr(np.zeros((24, 28, 3), np.uint8), lr / 255)
