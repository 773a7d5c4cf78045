"""Estimates of memory against what XLA allocates."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.inference import memory_budget
from linearsr_jax.inference.sampling import make_upscale
from linearsr_jax.models.bands import stem_halo
from linearsr_jax.models.linear_dit import inference_unroll
from linearsr_jax.models.presets import get_preset

CODEC = PixelCodec()
# Of nano, by LR pixels a side: MB that a process took more at its peak than before.
PEAKS = {256: 164, 512: 535, 1024: 1911}


def allocated(preset, height, width):
    """Bytes of one pass, by XLA; beside the weights."""
    model = preset.make_model(scan_unroll=inference_unroll(preset.depth))
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    lowered = jax.jit(make_upscale(model, preset, steps=2)).lower(
        [shapes],
        CODEC,
        jax.ShapeDtypeStruct((height, width, 3), jnp.uint8),
        jax.ShapeDtypeStruct((height, width, 48), jnp.float32),
    )
    analysis = lowered.compile().memory_analysis()
    # The image, and noise of 48 channels.
    inputs = height * width * (3 + 4 * 48)
    return inputs + analysis.temp_size_in_bytes + analysis.output_size_in_bytes


# The second is one that the blocks take in bands.
@pytest.mark.parametrize("grid", [(40, 64), (96, 128)])
@pytest.mark.parametrize("name", ["debug", "nano", "small"])
def test_an_image_takes_no_more_and_not_much_less(name, grid):
    preset = get_preset(name)
    estimate = memory_budget.image_bytes(preset.make_model(), CODEC, grid)
    actual = allocated(preset, *grid)
    assert actual < estimate < 2.5 * actual


def test_near_what_a_process_takes():
    """docs/upscaling.md has the measured peaks of nano, in MB."""
    model = get_preset("nano").make_model()
    for side, peak in PEAKS.items():
        estimate = memory_budget.image_bytes(model, CODEC, (side, side)) / 1e6
        assert peak < estimate < 1.5 * peak


def test_rows_fill_the_budget():
    model = get_preset("nano").make_model()
    halo = stem_halo(model.stem_strides, model.stem_blocks)
    grid = (900, 200)
    whole = memory_budget.image_bytes(model, CODEC, grid)
    assert memory_budget.rows_that_fit(model, CODEC, grid, None) is None
    assert memory_budget.rows_that_fit(model, CODEC, grid, whole) is None
    # With guidance there are two.
    assert memory_budget.rows_that_fit(model, CODEC, grid, whole, 2) is not None
    for budget in (whole - 1, whole * 3 // 4):
        rows = memory_budget.rows_that_fit(model, CODEC, grid, budget)
        host = memory_budget.host_bytes(model, CODEC, 900 * 200)
        windows = 2 * memory_budget.network_bytes(model, (rows + 2 * halo) * 200)
        assert 1 < rows < 900
        assert host + windows <= budget
        assert host + windows + 2 * memory_budget.network_bytes(model, 200) > budget
    assert memory_budget.rows_that_fit(model, CODEC, grid, 1) == 1


def test_half_of_the_machines_memory(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory_budget, "_CGROUP_LIMIT", limit)
    machine = memory_budget.default_budget()
    # Linux says it first, in kB.
    kilobytes = Path("/proc/meminfo").read_text().split()[1]
    assert machine == pytest.approx(1024 * int(kilobytes) / 2, rel=0.01)
    limit.write_text("max\n")
    assert memory_budget.default_budget() == machine
    limit.write_text("1000000\n")
    assert memory_budget.default_budget() == 500_000


def test_accelerators_say_what_they_have(monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 10 * 2**30}

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert memory_budget.default_budget() == 8 * 2**30
    monkeypatch.setattr(Device, "memory_stats", lambda self: None)
    assert memory_budget.default_budget() is None
