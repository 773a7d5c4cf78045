"""Model folders: what is written is read back, and damage is named."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linearsr_jax import pretrained
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.models.presets import get_preset


@pytest.fixture
def folder(tmp_path):
    preset = get_preset("debug")
    params = preset.make_model().init_params(jax.random.key(0))
    pretrained.save_pretrained(
        tmp_path / "model",
        params,
        preset,
        PixelCodec(residual_std=0.25),
        training={"step": 1},
        card="# a card\n",
    )
    return tmp_path / "model"


def rewrite_sums(folder):
    names = ("model.safetensors", "config.json", "README.md")
    lines = [f"{pretrained._sha256(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_round_trip(folder):
    model = pretrained.load_pretrained(folder)
    assert model.preset == get_preset("debug")
    assert model.codec == PixelCodec(residual_std=0.25)
    expected = model.preset.make_model().init_params(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, model.params, expected)


def test_changed_file_is_noticed(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(pretrained.PretrainedError, match="does not match SHA256SUMS"):
        pretrained.load_pretrained(folder)


@pytest.mark.parametrize("change", ["missing", "unknown", "of another shape"])
def test_tensors_that_do_not_fit_are_listed(folder, change):
    arrays = load_file(folder / "model.safetensors")
    if change == "missing":
        del arrays["head.bias"]
    elif change == "unknown":
        arrays["head.extra"] = np.zeros(3, np.float32)
    else:
        arrays["head.bias"] = np.zeros(3, np.float32)
    save_file(arrays, folder / "model.safetensors")
    rewrite_sums(folder)
    with pytest.raises(pretrained.PretrainedError, match=f"1 tensors {change}: head"):
        pretrained.load_pretrained(folder)


def test_truncated_weights_with_matching_sums(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    rewrite_sums(folder)
    with pytest.raises(pretrained.PretrainedError, match=r"model\.safetensors"):
        pretrained.load_pretrained(folder)


def test_missing_pieces(folder):
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(pretrained.PretrainedError, match="incomplete"):
        pretrained.load_pretrained(folder)
    with pytest.raises(pretrained.PretrainedError, match="no such model"):
        pretrained.load_pretrained("absent")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}'])
def test_unusable_config(folder, text):
    (folder / "config.json").write_text(text)
    rewrite_sums(folder)
    with pytest.raises(pretrained.PretrainedError):
        pretrained.load_pretrained(folder)


def test_bundled_nano_is_whole():
    assert "nano" in pretrained.bundled_models()
    model = pretrained.load_pretrained("nano")
    config = model.training["config"]
    assert config["preset"] == "nano"
    assert model.training["step"] == config["steps"]
    assert json.dumps(model.training["files"]).count("train/") == 0
