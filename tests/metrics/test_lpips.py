"""LPIPS, its weights' conversion, and the registry that loads it."""

import csv
import io
import pickle
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shipped_weights.lpips_alexnet import convert
from linearsr_jax.core.image_io import read_image
from linearsr_jax.metrics import METRICS, get_metrics
from linearsr_jax.metrics.lpips import (
    PARAMETER_SHAPES,
    load_lpips,
    load_parameters,
    lpips_distance,
)

SAMPLES = ["Canon_001_LR4.png", "Canon_027_LR4.png", "Nikon_010_LR4.png"]


def random_image(seed, height=40, width=56):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", SAMPLES)
def test_published_digits(shared, name):
    realsr = shared / "benchmarks" / "RealSR"
    with open(realsr / "osediff_metrics.csv", newline="") as file:
        row = {r["file"]: r for r in csv.DictReader(file)}[name]
    sr = read_image(realsr / "osediff_sample" / name).rgb
    hr = read_image(realsr / "HR" / name).rgb
    # The published value was computed on a GPU, at its precision.
    assert load_lpips()(sr, hr) == pytest.approx(float(row["LPIPS"]), abs=1e-3)


def test_known_value():
    # Measured here once the three published values above agreed; it holds the
    # digits where the benchmarks are absent.
    value = load_lpips()(random_image(0), random_image(1))
    assert value == pytest.approx(0.080182, abs=1e-4)


def test_identical_is_zero_and_order_does_not_matter():
    lpips = load_lpips()
    a, b = random_image(0), random_image(1)
    assert lpips(a, a) == pytest.approx(0, abs=1e-9)
    assert lpips(a, b) == pytest.approx(lpips(b, a), abs=1e-6)


def test_grows_with_the_error():
    lpips = load_lpips()
    image = np.full((40, 56, 3), 128, np.uint8)
    noise = np.random.default_rng(2).normal(size=image.shape)
    values = [
        lpips((image + strength * noise).astype(np.uint8), image)
        for strength in (2, 8, 24)
    ]
    assert 0 < values[0] < values[1] < values[2]


def test_batch_equals_one_by_one():
    a = np.stack([random_image(3), random_image(4)])
    b = np.stack([random_image(5), random_image(6)])
    scaled_a, scaled_b = (jnp.asarray(x / 127.5 - 1, jnp.float32) for x in (a, b))
    batch = lpips_distance(load_parameters(), scaled_a, scaled_b)
    assert batch.shape == (2,)
    for i in range(2):
        # A batch of another size sums in another order.
        assert load_lpips()(a[i], b[i]) == pytest.approx(float(batch[i]), abs=1e-5)


def test_sizes():
    lpips = load_lpips()
    smallest = random_image(7, 32, 33)
    assert 0 < lpips(smallest, 255 - smallest) < 2
    with pytest.raises(ValueError, match="32"):
        lpips(random_image(8, 31, 64), random_image(9, 31, 64))
    with pytest.raises(ValueError, match="same shape"):
        lpips(random_image(8), random_image(9, 40, 57))


def test_weights_are_small_and_whole():
    parameters = load_parameters()
    assert parameters.keys() == PARAMETER_SHAPES.keys()
    assert all(p.dtype == np.float32 for p in parameters.values())
    assert sum(p.nbytes for p in parameters.values()) < 12e6
    # The paper's constraint on the linear layers.
    assert all(parameters[f"lin{i}.weight"].min() >= 0 for i in range(5))


def tree_of_shapes():
    """A pickle's content with the right names and shapes."""
    tree = {"AlexNet_0": {}}
    for i in range(5):
        kernel = PARAMETER_SHAPES[f"conv{i}.kernel"]
        tree["AlexNet_0"][f"Conv_{i}"] = {
            "kernel": np.full(kernel, i, np.float32),
            "bias": np.arange(kernel[3], dtype=np.float32),
        }
        lin = np.arange(kernel[3], dtype=np.float32).reshape(1, 1, -1, 1)
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": lin}}
    return tree


def test_convert_names_everything():
    tensors = convert(pickle.dumps(tree_of_shapes()))
    assert {k: v.shape for k, v in tensors.items()} == PARAMETER_SHAPES
    assert np.all(tensors["conv3.kernel"] == 3)
    np.testing.assert_array_equal(tensors["lin1.weight"], np.arange(192))


def test_convert_refuses_what_it_does_not_know():
    tree = tree_of_shapes()
    tree["Extra"] = np.zeros(3, np.float32)
    del tree["NetLinLayer_2"]
    with pytest.raises(ValueError, match=r"Extra.*NetLinLayer_2"):
        convert(pickle.dumps(tree))
    tree = tree_of_shapes()
    tree["AlexNet_0"]["Conv_1"]["kernel"] = np.zeros((5, 5, 192, 64), np.float32)
    with pytest.raises(ValueError, match=r"conv1\.kernel"):
        convert(pickle.dumps(tree))


def test_convert_runs_no_code():
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    buffer = io.BytesIO()
    pickle.dump({"AlexNet_0": Evil()}, buffer)
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print"):
        convert(buffer.getvalue())


def test_registry():
    assert [m.name for m in get_metrics(["lpips", "psnr", "lpips"])] == [
        "lpips",
        "psnr",
    ]
    assert METRICS["lpips"].load() is load_lpips()
    assert not METRICS["lpips"].higher_is_better
    assert METRICS["ssim"].higher_is_better
    with pytest.raises(ValueError, match="'spnr'; did you mean 'psnr'"):
        get_metrics(["spnr"])
    with pytest.raises(ValueError, match="known are psnr"):
        get_metrics([])


def test_the_registry_alone_does_not_import_jax():
    code = (
        "import sys, linearsr_jax.metrics as m; m.METRICS['ssim'].load(); "
        "sys.exit('jax' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
