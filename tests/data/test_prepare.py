"""Packing a folder; tests/cli/test_prepare.py has what is left out and refused."""

import numpy as np
from PIL import Image

from linearsr_jax.core.image_io import decode_image
from linearsr_jax.data.packed import PackedStore
from linearsr_jax.data.prepare import pack_folder
from tests.data.noise_photos import noise, save


def test_max_side_shrinks_only_what_is_longer(tmp_path):
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    long = np.repeat(np.broadcast_to(ramp, (120, 300))[..., None], 3, 2)
    (tmp_path / "in").mkdir()
    Image.fromarray(long).save(tmp_path / "in" / "long.png")
    save(tmp_path / "in" / "short.png", 1)
    out = tmp_path / "out.safetensors"
    assert pack_folder(tmp_path / "in", out, max_side=100) == (2, {})
    store = PackedStore(out)
    assert store.scan(min_size=1).sizes == ((100, 40), (30, 20))
    shrunk = decode_image(store.read("long.png"), "long.png").pixels
    assert shrunk.shape == (40, 100, 3)
    # A ramp stays one: the mean of each three pixels.
    expected = ramp.reshape(100, 3).mean(1)
    assert np.abs(shrunk[20, :, 1] - expected).max() < 4
    short = decode_image(store.read("short.png"), "short.png")
    np.testing.assert_array_equal(short.pixels, noise(1))
    assert store.read("short.png") == (tmp_path / "in" / "short.png").read_bytes()
