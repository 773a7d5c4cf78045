"""From text to features, and folders that are no encoder's."""

import json
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from linearsr_jax.convert.gemma2 import convert
from linearsr_jax.core.files import write_sums
from linearsr_jax.text_encoder import encoder as encoders
from linearsr_jax.text_encoder import instruction
from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.encoder import TextEncoder
from linearsr_jax.text_encoder.gemma2 import Gemma2
from tests.gemma2_testing import CONFIG, save_source, tokenize

INSTRUCTION = "go: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma2")
    convert(save_source(folder / "source"), folder / "ours")
    return folder / "ours"


@pytest.fixture(scope="module")
def params(folder):
    flat = load_file(folder / "encoder.safetensors")
    return traverse_util.unflatten_dict(flat, sep=".")


@pytest.fixture(scope="module")
def encoder(params):
    return TextEncoder(params, CONFIG, tokenize, "test")


@pytest.fixture(scope="module")
def instructed(params):
    return TextEncoder(params, CONFIG, tokenize, "test", instruction=INSTRUCTION)


@pytest.fixture(scope="module")
def features_of(params):
    """The network's features of these ids, not padded."""
    run = jax.jit(Gemma2(CONFIG).apply)

    def features(ids):
        tokens = np.int32([ids])
        return np.asarray(run({"params": params}, tokens, tokens >= 0))[0]

    return features


def test_a_text(encoder, features_of):
    features = encoder("  rose, leaf\n")
    expected = features_of([CONFIG.bos, *tokenize("rose, leaf")])
    assert features.dtype == encoder.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())
    assert encoder.count("  rose, leaf\n") == len(features)


def test_no_text_is_what_begins_every_text(encoder):
    nothing = encoder("  ")
    assert nothing.shape == (1, CONFIG.width)
    np.testing.assert_allclose(nothing, encoder("rose")[:1], atol=1e-5)


def test_an_instruction_is_seen_and_left_out(instructed, features_of):
    ids = [CONFIG.bos, *tokenize(INSTRUCTION + "rose")]
    expected = features_of(ids)[[0, *range(len(tokenize(INSTRUCTION)), len(ids))]]
    features = instructed("rose")
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())
    assert instructed.count("rose") == len(features) == 6
    assert "go:" not in json.dumps(instructed.description)


def test_too_long_a_text(encoder, monkeypatch, caplog):
    monkeypatch.setattr(instruction, "MAX_TOKENS", 10)
    short = encoder("a" * 9)
    assert caplog.messages == []
    long = encoder("a" * 9 + "bcd")
    assert "leaving out the last 3 tokens" in caplog.text
    np.testing.assert_array_equal(long, short)
    assert encoder.count("a" * 99) == len(short) == 10


@pytest.mark.parametrize(
    ("text", "name"), [("a\0", "U+0000"), ("\x1b[0m", "U+001B"), ("\udcff", "U+DCFF")]
)
def test_control_characters(encoder, text, name):
    with pytest.raises(TextError, match=name.replace("+", r"\+")):
        encoder(text)


def test_features_that_are_not_finite(params):
    broken = jax.tree_util.tree_map(lambda x: x + np.float32(np.nan), params)
    with pytest.raises(TextError, match="not finite"):
        TextEncoder(broken, CONFIG, tokenize, "test")("rose")


def test_loads_a_folder(folder, encoder, monkeypatch):
    monkeypatch.setattr(encoders, "load_tokenizer", lambda path, size: tokenize)
    loaded = TextEncoder.load(folder)
    np.testing.assert_array_equal(loaded("rose"), encoder("rose"))
    half = TextEncoder.load(folder, "bfloat16", INSTRUCTION)
    assert half("rose").dtype.name == "bfloat16"
    assert half.description["source"] == loaded.description["source"]
    assert half.description["instruction"].startswith("unknown, SHA-256")


def test_without_tokenizers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TextError, match=r'pip install "\.\[text\]"'):
        TextEncoder.load(folder)


def test_folders_that_are_no_encoder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "load_tokenizer", lambda path, size: tokenize)
    names = [path.name for path in folder.iterdir()]

    def fresh():
        for name in names:
            (tmp_path / name).write_bytes((folder / name).read_bytes())

    def refuses(match, sum_anew=True):
        if sum_anew:
            write_sums(tmp_path, [n for n in names if n != "SHA256SUMS"])
        with pytest.raises(TextError, match=match) as caught:
            TextEncoder.load(tmp_path)
        assert "\n" not in str(caught.value)

    refuses("describes no text encoder", sum_anew=False)
    fresh()
    (tmp_path / "encoder.safetensors").unlink()
    refuses("incomplete, .*encoder.safetensors", sum_anew=False)
    fresh()
    (tmp_path / "tokenizer.json").write_text("[]")
    refuses("tokenizer.json: does not match SHA256SUMS", sum_anew=False)
    fresh()
    (tmp_path / "encoder.safetensors").write_bytes(b"12345678")
    refuses("encoder.safetensors: ")
    fresh()
    arrays = load_file(tmp_path / "encoder.safetensors")
    arrays["extra"] = arrays.pop("norm.weight")
    save_file(arrays, tmp_path / "encoder.safetensors")
    refuses("1 tensors missing: norm.weight")
    config = json.loads((folder / "config.json").read_text())
    for field, value, match in (
        ("name", "t5", "describes 't5'"),
        ("weights", "float32", "is BF16, and not float32"),
        ("weights", "float16", "unusable"),
        ("sizes", {"depth": 3}, "unusable"),
        ("sizes", {"width": -1}, "unusable"),
    ):
        fresh()
        changed = {**config, "text_encoder": {**config["text_encoder"], field: value}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        refuses(match)
    fresh()
    write_sums(tmp_path, ["config.json"])
    refuses("SHA256SUMS: lacks", sum_anew=False)
