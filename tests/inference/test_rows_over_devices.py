"""An image whose rows are split over devices is that of one device.

XLA divides the sampler by itself. The devices send each other the sums of attention,
and the rows beside their own that a convolution sees.
"""

import re

import jax
import numpy as np
import pytest

from linearsr_jax import Upscaler
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.inference.errors import UpscaleError
from linearsr_jax.inference.memory_budget import needed_bytes
from linearsr_jax.inference.row_sharding import RowSharding
from linearsr_jax.inference.sampling import draw_noise, make_upscale
from linearsr_jax.models.presets import get_preset
from tests.experts_testing import FOUR, make_pretrained

# Of the LR image, which has as many as the latents.
ROWS, COLUMNS = 64, 16


def test_rows_are_split_over_devices():
    preset, codec = get_preset("debug"), PixelCodec()
    model = preset.make_model(implementation="reference")
    params = model.init_params(jax.random.key(0))
    # At the start the network's output is zero.
    params = jax.tree.map(lambda x: x + 0.02, params)
    rng = np.random.default_rng(0)
    image_lr = rng.integers(0, 256, (ROWS, COLUMNS, 3), np.uint8)
    noise = draw_noise(preset, codec, ROWS, COLUMNS, steps=2, seed=0)
    upscale = make_upscale(model, preset, steps=2)
    expected, _ = jax.jit(upscale)([params], codec, image_lr, noise)
    rows = RowSharding(jax.devices()).rows(8)
    split = jax.device_put((image_lr, noise), rows)
    with jax.set_mesh(rows.mesh):
        compiled = (
            jax.jit(upscale, out_shardings=(rows, None))
            .lower([params], codec, *split)
            .compile()
        )
        image, is_finite = compiled([params], codec, *split)
    assert is_finite
    assert len(image.addressable_shards) == 8
    assert image.addressable_shards[0].data.shape == (4 * ROWS // 8, 4 * COLUMNS, 3)
    np.testing.assert_allclose(image, expected, atol=1e-5)
    found = re.findall(
        r"= (\S+|\(.*?\)) (all-gather|all-to-all|all-reduce|collective-permute)\(.*"
        r'op_name="([^"]*)"',
        compiled.as_text(),
    )
    kinds = {kind for _, kind, _ in found}
    assert {"all-reduce", "collective-permute"} <= kinds
    for shape, kind, name in found:
        if kind == "collective-permute":
            # A row that the next device has. Mix-FFN's convolution on CPU is a sum of
            # shifted images, which takes more.
            is_row = re.match(r"f32\[1,1,\d+,\d+\]", shape)
            assert is_row or "/ffn/cond/" in name, (shape, name)
        elif kind == "all-reduce":
            assert "attention" in name or "reduce_and" in name, (shape, name)
        else:
            # The pixel codec resizes by a product with the LR image.
            assert "_resize" in name, (kind, shape, name)


@pytest.fixture(scope="module")
def upscalers():
    model = make_pretrained(FOUR)
    return Upscaler(model), Upscaler(model, devices=8)


@pytest.mark.parametrize("rows", [16, 12, 7])
def test_the_upscaler_splits_what_devices_divide(upscalers, rows):
    image_lr = np.random.default_rng(0).integers(0, 256, (rows, 9, 3), np.uint8)
    one, eight = (up(image_lr, steps=4, seed=2).astype(int) for up in upscalers)
    assert np.abs(one - eight).max() <= 1
    assert np.abs(one - one[0, 0]).max() > 10


def test_the_weights_lie_on_every_device(upscalers):
    upscaler = upscalers[1]
    (weights,) = {x.sharding for x in jax.tree.leaves(upscaler._experts_at(None))}
    assert weights.is_fully_replicated
    assert len(weights.device_set) == 8


def test_each_device_needs_its_part_of_the_memory(monkeypatch):
    model = get_preset("nano").make_model()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    whole, part = (
        needed_bytes(model, PixelCodec(), (800, 600), None, parts=parts)
        for parts in (1, 8)
    )
    assert part == -(-whole // 8)


@pytest.mark.parametrize("devices", [0, 9, 2.0])
def test_devices_that_are_not_there(devices):
    with pytest.raises(
        UpscaleError, match="devices must be a whole number from 1 to 8"
    ):
        Upscaler(make_pretrained(FOUR), devices=devices)


def test_offloaded_experts_take_one_device():
    with pytest.raises(UpscaleError, match="offload_experts is for one device"):
        Upscaler(make_pretrained(FOUR), devices=2, offload_experts=True)


@pytest.mark.slow
def test_an_image_of_4096_pixels_is_that_of_one_device():
    rng = np.random.default_rng(0)
    image_lr = rng.integers(0, 256, (1024, 1024, 3), np.uint8)
    one, eight = (
        Upscaler.from_pretrained("nano", devices=count, max_memory=12)(image_lr)
        for count in (1, 8)
    )
    difference = np.abs(one.astype(int) - eight)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-4
