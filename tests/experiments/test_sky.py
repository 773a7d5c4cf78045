"""Nothing is tiled: a flat sky has no seams, where tiles of the same model have."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from linearsr_jax.pretrained.model_folder import load_pretrained

PATH = Path(__file__).resolve().parents[2] / "experiments/202611_sky/sky.py"


@pytest.fixture(scope="module")
def sky():
    spec = importlib.util.spec_from_file_location("sky", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bands_have_no_seams(sky):
    model = load_pretrained("nano")
    image_lr = sky.sky(24)
    upscale_whole = sky.make_pass(model)
    whole = upscale_whole(image_lr)
    bands = sky.in_bands(model, image_lr, 8)
    difference = 127.5 * np.abs(bands - whole)
    assert difference.max() < 0.01  # levels
    for profile in (difference.mean((1, 2)), difference.mean((0, 2))):
        assert profile.max() < 5 * np.median(profile)
    # The measure finds seams where there are some.
    assert sky.border_step(bands, 8) < 1.2
    assert sky.border_step(sky.in_tiles(upscale_whole, image_lr, 8), 8) > 3
