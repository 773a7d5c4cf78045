"""Gemma 2's weights: every tensor once, both of its layouts, damage named."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linearsr_jax.convert import gemma2
from linearsr_jax.convert.gemma2 import config_of, convert, match_sources, tensor_parts
from linearsr_jax.convert.safetensors_stream import ConvertError, SourceTensor
from linearsr_jax.core.files import check_sums
from linearsr_jax.text_encoder.gemma2 import Gemma2Config, parameter_shapes
from tests.gemma2_testing import (
    CONFIG,
    golden_fields,
    golden_weights,
    save_shards,
    save_source,
)

# As google/gemma-2-2b-it has it, of an older transformers.
PUBLISHED = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "eos_token_id": [1, 107],
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}


def published_shapes():
    """The tensors of the 2B, written down on their own from specs/TEXT.md section 5."""
    shapes = {"model.embed_tokens.weight": (256000, 2304), "model.norm.weight": (2304,)}
    for i in range(26):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (2048, 2304),
            f"{layer}.self_attn.k_proj.weight": (1024, 2304),
            f"{layer}.self_attn.v_proj.weight": (1024, 2304),
            f"{layer}.self_attn.o_proj.weight": (2304, 2048),
            f"{layer}.mlp.gate_proj.weight": (9216, 2304),
            f"{layer}.mlp.up_proj.weight": (9216, 2304),
            f"{layer}.mlp.down_proj.weight": (2304, 9216),
            f"{layer}.input_layernorm.weight": (2304,),
            f"{layer}.post_attention_layernorm.weight": (2304,),
            f"{layer}.pre_feedforward_layernorm.weight": (2304,),
            f"{layer}.post_feedforward_layernorm.weight": (2304,),
        }
    return shapes


def test_the_published_model():
    assert config_of(PUBLISHED) == Gemma2Config()
    counts = {
        name: int(np.prod(shape))
        for name, shape in parameter_shapes(Gemma2Config()).items()
    }
    assert sum(counts.values()) == 2_614_341_888
    assert sum(counts.values()) - counts["embedding"] == 2_024_517_888
    shapes = published_shapes()
    for removed in ("", "model."):
        tensors = {
            name.removeprefix(removed): SourceTensor(shape, None)
            for name, shape in shapes.items()
        }
        parts = match_sources(tensors, Gemma2Config())
        used = [name for listed in parts.values() for p in listed for name in p.theirs]
        assert sorted(used) == sorted(tensors)
        assert parts.keys() == counts.keys()


def test_values_land_where_they_belong(tmp_path):
    source = save_source(tmp_path / "source")
    count = convert(source, tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "encoder.safetensors")
    assert count == sum(x.size for x in ours.values())
    assert count == sum(x.size for x in golden_weights().values())
    assert {x.dtype for x in ours.values()} == {np.dtype(jnp.bfloat16)}
    weights = golden_weights()
    for part, theirs in (
        ("key.kernel", "self_attn.k_proj"),
        ("gate.kernel", "mlp.gate_proj"),
        ("up.kernel", "mlp.up_proj"),
        ("attention_out_norm.weight", "post_attention_layernorm"),
        ("mlp_norm.weight", "pre_feedforward_layernorm"),
    ):
        for layer in range(CONFIG.layers):
            expected = weights[f"layers.{layer}.{theirs}.weight"]
            np.testing.assert_array_equal(ours[f"layers.{part}"][layer], expected.T)
    np.testing.assert_array_equal(ours["embedding"], weights["embed_tokens.weight"])
    assert check_sums(tmp_path / "ours").keys() == {
        "config.json",
        "encoder.safetensors",
        "tokenizer.json",
    }
    copied = (tmp_path / "ours" / "tokenizer.json").read_bytes()
    assert copied == (source / "tokenizer.json").read_bytes()


def test_all_layouts_give_the_same_bytes(tmp_path):
    convert(save_source(tmp_path / "plain"), tmp_path / "a")
    # The whole language model, and what older transformers kept.
    whole = {f"model.{name}": value for name, value in golden_weights().items()}
    whole["lm_head.weight"] = whole["model.embed_tokens.weight"]
    for layer in range(CONFIG.layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        whole[name] = np.ones(3, np.float32)
    convert(save_source(tmp_path / "whole", whole), tmp_path / "b")
    # Shards in a pipeline, whose tokenizer is in a folder of its own.
    shards = save_shards(tmp_path / "pipeline" / "text_encoder")
    (tmp_path / "pipeline" / "tokenizer").mkdir()
    (shards / "tokenizer.json").rename(
        tmp_path / "pipeline" / "tokenizer" / "tokenizer.json"
    )
    convert(tmp_path / "pipeline", tmp_path / "c")
    convert(shards / "model.safetensors.index.json", tmp_path / "d")
    first = (tmp_path / "a" / "encoder.safetensors").read_bytes()
    for other in "bcd":
        assert (tmp_path / other / "encoder.safetensors").read_bytes() == first
    sources = json.loads((tmp_path / "c" / "config.json").read_text())["converted_from"]
    assert len(sources) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_other_types_become_float32(tmp_path, dtype):
    """As soon as one tensor is not bfloat16, so that nothing is rounded."""
    weights = golden_weights()
    weights["norm.weight"] = weights["norm.weight"].astype(dtype)
    convert(save_source(tmp_path / "source", weights), tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "encoder.safetensors")
    assert {x.dtype for x in ours.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(ours["norm.weight"], weights["norm.weight"])
    sizes = json.loads((tmp_path / "ours" / "config.json").read_text())["text_encoder"]
    assert sizes["weights"] == "float32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3"}, "model_type is 'gemma3'"),
        ({"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_bidirectional_attention": True}, "bidirectional"),
        ({"attn_logit_softcapping": None}, "logit_cap cannot be None"),
        ({"num_key_value_heads": 3}, "kv_heads must divide"),
        ({"hidden_size": "20"}, "width cannot be '20'"),
        ({"rms_norm_eps": float("nan")}, "eps cannot be nan"),
        ({"layer_types": ["full_attention"] * 3}, "alternate"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ],
)
def test_other_models_are_refused(change, message):
    with pytest.raises(ConvertError, match=message):
        config_of(golden_fields() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "1 missing: norm.weight"),
        ("unknown", "1 unknown: lora.weight"),
        ("renamed", "1 missing: norm.weight; 1 unknown: norm.scale"),
        ("shape", r"1 of unusable shape: norm.weight \(21,\)"),
        ("both", "1 unknown: norm.weight"),
    ],
)
def test_other_tensors_are_listed(tmp_path, change, message):
    weights = golden_weights()
    if change == "both":
        weights = {f"model.{name}": value for name, value in weights.items()}
        weights["norm.weight"] = weights["model.norm.weight"]
    elif change == "unknown":
        weights["lora.weight"] = weights["norm.weight"]
    elif change == "shape":
        weights["norm.weight"] = np.zeros(21, jnp.bfloat16)
    else:
        norm = weights.pop("norm.weight")
        if change == "renamed":
            weights["norm.scale"] = norm
    source = save_source(tmp_path / "source", weights)
    with pytest.raises(ConvertError, match=f"model.safetensors: .*{message}"):
        convert(source, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_damaged_folders(tmp_path):
    source = save_shards(tmp_path / "source")

    def refuses(message):
        with pytest.raises(ConvertError, match=message) as caught:
            convert(source, tmp_path / "ours")
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["source"]

    shard = source / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    refuses("00002-of-00002.safetensors: cannot be read")
    save_file(load_file(source / "model-00001-of-00002.safetensors"), shard)
    refuses("tensors are not where")
    shard.unlink()
    refuses("00002-of-00002.safetensors: cannot be read")
    shard.write_bytes(whole)
    (source / "tokenizer.json").rename(source / "tokenizer.model")
    refuses("tokenizer.json: no such file")
    (source / "tokenizer.model").rename(source / "tokenizer.json")
    config = source / "config.json"
    text = config.read_text()
    for damaged in ("", "[]", "{}", "\xff"):
        config.write_text(damaged, "latin-1")
        refuses("config.json: ")
    config.unlink()
    refuses("config.json: cannot be read")
    config.write_text(text)
    (source / "model.safetensors.index.json").unlink()
    refuses("has no model")
    save_file(golden_weights(), source / "model.bf16.safetensors")
    save_file(golden_weights(np.float16), source / "model.fp16.safetensors")
    refuses("give one of these")
    convert(source / "model.bf16.safetensors", tmp_path / "ours")


def test_what_exists_stays_and_failures_leave_nothing(tmp_path, monkeypatch):
    source = save_source(tmp_path / "source")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine.txt").write_text("kept")
    with pytest.raises(ConvertError, match="exists"):
        convert(source, tmp_path / "ours")
    with pytest.raises(ConvertError, match="exists"):
        convert(source, source / "config.json")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(gemma2, "write_sums", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "source"]
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["mine.txt"]


def test_one_part_a_layer():
    parts = tensor_parts(CONFIG)
    assert {len(listed) for listed in parts.values()} == {1, CONFIG.layers}
