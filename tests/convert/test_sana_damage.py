"""What SANA's conversion refuses: damage is named, and nothing half is left."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linearsr_jax.codecs.dc_ae_network import DcAeConfig
from linearsr_jax.convert import sana_names
from linearsr_jax.convert.safetensors_stream import ConvertError
from linearsr_jax.convert.sana import convert
from linearsr_jax.pretrained.model_folder import load_pretrained
from tests.convert.sana_layouts import WEIGHTS, save_shards, to_official
from tests.sana_testing import (
    CODEC_CONFIG,
    golden_weights,
    save_codec,
    save_diffusers,
)


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_a_pickle_with_code_is_refused(codec, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="extra `parity` is not installed")
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x_embedder.proj.weight": Evil()}}, "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "old.pth"):
        with pytest.raises(ConvertError, match="cannot be read weights-only"):
            convert(tmp_path / name, tmp_path / "to", codec)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth", "old.pth"]


def test_shards_that_are_missing_or_lie(codec, tmp_path):
    save_shards(tmp_path / "a", golden_weights("qk"))
    second = tmp_path / "a" / "diffusion_pytorch_model-00002-of-00002.safetensors"
    arrays = load_file(second)
    save_file(arrays | {"extra": np.zeros(1, np.float32)}, second)
    with pytest.raises(ConvertError, match=r"00002-of.*1 tensors are not.*extra"):
        convert(tmp_path / "a", tmp_path / "to", codec)
    second.unlink()
    with pytest.raises(ConvertError, match=r"00002-of.*: cannot be read"):
        convert(tmp_path / "a", tmp_path / "to", codec)
    index = tmp_path / "a" / f"{WEIGHTS}.index.json"
    for text in ("", "[]", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        with pytest.raises(ConvertError, match="cannot be read"):
            convert(tmp_path / "a", tmp_path / "to", codec)
    index.unlink()
    with pytest.raises(ConvertError, match="no weights; give"):
        convert(tmp_path / "a", tmp_path / "to", codec)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("is_official", [False, True])
@pytest.mark.parametrize("change", ["missing", "unknown", "renamed"])
def test_other_tensors_are_listed(codec, official_sizes, tmp_path, change, is_official):
    weights = golden_weights()
    bias = "final_layer.linear.bias" if is_official else "proj_out.bias"
    if is_official:
        weights = to_official(weights)
    if change != "missing":
        weights["lora.down"] = np.zeros(1, np.float32)
    if change != "unknown":
        del weights[bias]
    source = save_diffusers(tmp_path / "source", weights)
    expected = {
        "missing": f"1 missing: {bias}$",
        "unknown": r"1 unknown: lora\.down$",
        "renamed": rf"1 missing: {bias}; 1 unknown: lora\.down$",
    }
    with pytest.raises(ConvertError, match=expected[change]):
        convert(source, tmp_path / "to", codec)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.proj.weight", (32, 4, 2, 2)),
        ("patch_embed.proj.weight", (32, 5, 1, 1)),
        ("transformer_blocks.1.attn1.to_k.weight", (31, 32)),
        ("transformer_blocks.1.ff.conv_depth.weight", (160, 2, 3, 3)),
        ("proj_out.bias", ()),
        ("caption_norm.weight", (1, 32)),
    ],
)
def test_tensors_of_another_shape_are_listed(codec, tmp_path, name, shape):
    weights = golden_weights() | {name: np.zeros(shape, np.float32)}
    source = save_diffusers(tmp_path / "source", weights)
    with pytest.raises(ConvertError, match=rf"unusable shape: .*{name} \("):
        convert(source, tmp_path / "to", codec)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("size", [0, 5, 100, 100_000])
def test_truncated_files(codec, tmp_path, size):
    source = save_diffusers(tmp_path / "source", golden_weights())
    path = source / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConvertError, match=r"model\.safetensors: cannot be read"):
        convert(source, tmp_path / "to", codec)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "describes FluxTransformer2DModel"),
        ({"guidance_embeds": True}, "SANA-Sprint"),
        ({"patch_size": 2}, "patch_size is 2; only 1"),
        ({"qk_norm": "layer_norm"}, "qk_norm layer_norm"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_layers": "2"}, "num_layers is '2'"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": 10**12}, "num_layers is 1000"),
        ({"num_layers": 3}, "missing: transformer_blocks.2"),
        ({"mlp_ratio": None}, "mlp_ratio is None"),
        ({"mlp_ratio": 2.4}, "unusable shape"),
        ({"interpolation_scale": 0}, "interpolation_scale is 0"),
        ({"cross_attention_head_dim": 8}, "must be equal"),
        ({"out_channels": 8}, "differ"),
        ({"in_channels": 5, "out_channels": 5}, "unusable shape"),
        ({"caption_channels": 2304}, "unusable shape: caption_projection"),
    ],
)
def test_unusable_configs(codec, tmp_path, changes, message):
    source = save_diffusers(tmp_path / "source", golden_weights(), **changes)
    with pytest.raises(ConvertError, match=message):
        convert(source, tmp_path / "to", codec)
    assert not (tmp_path / "to").exists()


def test_no_config_or_none_at_all(codec, tmp_path):
    source = save_diffusers(tmp_path / "source", golden_weights())
    for text in ("", "[]", "nonsense"):
        (source / "config.json").write_text(text)
        with pytest.raises(ConvertError, match=r"its config\.json cannot"):
            convert(source, tmp_path / "to", codec)
    (source / "config.json").unlink()
    with pytest.raises(ConvertError, match=r"its config\.json cannot"):
        convert(source / WEIGHTS, tmp_path / "to", codec)


def test_official_weights_of_other_models(codec, tmp_path, monkeypatch):
    weights = to_official(golden_weights())
    path = tmp_path / "a.safetensors"
    save_file(weights, path)
    with pytest.raises(ConvertError, match="has width 32; SANA's are 1152, 2240"):
        convert(path, tmp_path / "to", codec)
    save_file(weights | {"cfg_embedder.mlp.0.bias": np.zeros(32, np.float32)}, path)
    with pytest.raises(ConvertError, match="SANA-Sprint"):
        convert(path, tmp_path / "to", codec)
    monkeypatch.setitem(sana_names.CROSS_HEADS, 32, 2)
    save_file(weights | {"pos_embed": np.ones((1, 256, 32), np.float32)}, path)
    with pytest.raises(ConvertError, match="pos_embed"):
        convert(path, tmp_path / "to", codec)
    del weights["y_embedder.y_proj.fc1.weight"]
    save_file(weights, path)
    with pytest.raises(ConvertError, match=r"not a SANA.*y_proj\.fc1"):
        convert(path, tmp_path / "to", codec)


def test_codecs_that_do_not_fit(codec, tmp_path):
    source = save_diffusers(tmp_path / "source", golden_weights())
    with pytest.raises(ConvertError, match=r"no vae folder; give.*--codec"):
        convert(source, tmp_path / "to")
    with pytest.raises(ConvertError, match="no weights; give"):
        convert(source, tmp_path / "to", tmp_path / "absent")
    fields = CODEC_CONFIG.to_dict()
    fields = {k: v[1:] if type(v) is tuple else v for k, v in fields.items()}
    other = save_codec(tmp_path / "f16", DcAeConfig(**fields))
    with pytest.raises(ConvertError, match=r"factor 16 and 4 channels; .* needs 32"):
        convert(source, tmp_path / "to", other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f16", "source"]


def test_an_existing_folder_is_left_alone(codec, tmp_path):
    source = save_diffusers(tmp_path / "source", golden_weights())
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").write_text("mine")
    with pytest.raises(ConvertError, match="to: exists; remove it or choose"):
        convert(source, tmp_path / "to", codec)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["mine"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConvertError, match="file: exists"):
        convert(source, tmp_path / "file", codec)
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty", codec)
    load_pretrained(tmp_path / "empty")


def test_interrupted_it_leaves_nothing(codec, tmp_path, monkeypatch):
    source = save_diffusers(tmp_path / "source", golden_weights())

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("linearsr_jax.convert.sana.describe_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "to", codec)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


KILLED = """
import os, signal, sys
from pathlib import Path
from linearsr_jax.convert import sana

sana._initial_stem = lambda _: {}
sana.read_part = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sana.convert(*map(Path, sys.argv[1:]))
"""


def test_killed_it_leaves_no_folder_that_looks_whole(codec, tmp_path):
    source = save_diffusers(tmp_path / "source", golden_weights())
    arguments = [source, tmp_path / "to", codec]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    assert subprocess.run(command).returncode == -9
    assert not (tmp_path / "to").exists()
    hidden = [path for path in tmp_path.iterdir() if path != source]
    assert all(path.name.startswith(".") for path in hidden)
