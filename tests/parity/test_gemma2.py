"""Our Gemma 2 computes what transformers' does, by a golden file and beside it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from linearsr_jax.convert.gemma2 import config_of, convert
from linearsr_jax.core.tensor_files import read_tensors
from linearsr_jax.text_encoder.encoder import WEIGHTS_FILE
from linearsr_jax.text_encoder.gemma2 import Gemma2
from tests.gemma2_testing import CONFIG, GOLDEN, save_source
from tests.parity.comparing import relative_error

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """The twin's weights, through the converter as a user would."""
    folder = tmp_path_factory.mktemp("gemma2")
    convert(save_source(folder / "source"), folder / "ours")
    flat = read_tensors(folder / "ours" / WEIGHTS_FILE, jnp.bfloat16)
    return {"params": traverse_util.unflatten_dict(flat, sep=".")}


# Compiled once for each.
@functools.cache
def compiled(config, dtype):
    return jax.jit(Gemma2(config, dtype).apply)


def run(config, variables, tokens, mask, dtype=jnp.float32):
    features = compiled(config, dtype)(variables, tokens, mask)
    assert features.dtype == dtype
    return np.asarray(features)


def test_whole(golden, variables):
    features = run(CONFIG, variables, golden["tokens"], golden["mask"])
    assert relative_error(features, golden["features"]) < TOLERANCE


def test_bfloat16_is_as_near_as_theirs(golden, variables):
    features = run(CONFIG, variables, golden["tokens"], golden["mask"], jnp.bfloat16)
    theirs = relative_error(golden["features_bfloat16"], golden["features"])
    assert 1e-3 < theirs < 0.05
    assert relative_error(features, golden["features"]) < 1.5 * theirs


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_cap", 50.0),
        ("window", 5),
        ("query_scalar", 6.0),
        ("rope_base", 101.0),
    ],
)
def test_the_golden_file_tells_each_setting_apart(golden, variables, field, value):
    config = dataclasses.replace(CONFIG, **{field: value})
    features = run(config, variables, golden["tokens"], golden["mask"])
    assert relative_error(features, golden["features"]) > 10 * TOLERANCE


def test_padding_changes_nothing(golden, variables):
    """Whatever stands there: no token sees it, as all see only those before them."""
    tokens, mask = golden["tokens"], golden["mask"]
    other = np.where(mask, tokens, 7)
    features = run(CONFIG, variables, other, mask)
    np.testing.assert_array_equal(
        features[mask], run(CONFIG, variables, tokens, mask)[mask]
    )
    unmasked = run(CONFIG, variables, other, np.ones_like(mask))
    assert relative_error(unmasked[mask], golden["features"][mask]) < TOLERANCE
    assert relative_error(unmasked[~mask], golden["features"][~mask]) > 0.1


def test_after_an_empty_text_all_padding_is_equal(variables):
    """Each sees BOS alone, so the rotation cancels: specs/TEXT.md section 4."""
    # As with Gemma's 4096 tokens, BOS is in all windows.
    config = dataclasses.replace(CONFIG, window=64)
    tokens = np.full((1, 30), CONFIG.pad, np.int32)
    tokens[0, 0] = CONFIG.bos
    mask = np.arange(30)[None] == 0
    null = run(config, variables, tokens, mask)[0]
    assert np.ptp(null[1:], axis=0).max() < 1e-5 * np.abs(null).max()
    assert np.abs(null[0] - null[1]).max() > 0.1


def test_beside_transformers(tmp_path):
    """Other sizes: a whole forward of Gemma 2's own cap, one key head, no padding."""
    reason = "extra `parity` is not installed"
    pytest.importorskip("torch", reason=reason)
    pytest.importorskip("transformers", reason=reason)
    from tests.parity import make_golden_gemma2 as twins

    changes = {
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0,
        "sliding_window": 9,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    twin = twins.make_twin(seed=5, **changes)
    tokens, mask = twins.make_inputs(twin.config, lengths=(40, 40), seed=6)
    expected = twins.run(twin, tokens, mask).numpy()
    weights = {f"model.{k}": v.numpy() for k, v in twin.state_dict().items()}
    fields = twin.config.to_dict()
    convert(save_source(tmp_path / "source", weights, fields), tmp_path / "ours")
    flat = read_tensors(tmp_path / "ours" / WEIGHTS_FILE)
    variables = {"params": traverse_util.unflatten_dict(flat, sep=".")}
    features = run(config_of(fields), variables, tokens.numpy(), mask.numpy())
    assert relative_error(features, expected) < TOLERANCE
