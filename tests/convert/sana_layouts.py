"""SANA's weights in NVlabs' layout and in shards."""

import json

import numpy as np
from safetensors.numpy import save_file

from tests.sana_testing import CONFIG

WEIGHTS = "diffusion_pytorch_model.safetensors"
# Line by line as diffusers' conversion script has it; blocks below their prefix.
OUTSIDE = {
    "patch_embed.proj": "x_embedder.proj",
    "time_embed.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_embed.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_embed.linear": "t_block.1",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "caption_norm": "attention_y_norm",
    "scale_shift_table": "final_layer.scale_shift_table",
    "proj_out": "final_layer.linear",
}
BLOCK = {
    "scale_shift_table": "scale_shift_table",
    "attn1.to_out.0": "attn.proj",
    "attn1.norm_q": "attn.q_norm",
    "attn1.norm_k": "attn.k_norm",
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_out.0": "cross_attn.proj",
    "attn2.norm_q": "cross_attn.q_norm",
    "attn2.norm_k": "cross_attn.k_norm",
    "ff.conv_inverted": "mlp.inverted_conv.conv",
    "ff.conv_depth": "mlp.depth_conv.conv",
    "ff.conv_point": "mlp.point_conv.conv",
}


def to_official(weights):
    """The same weights under NVlabs' names, fused as there, and what else is there."""

    def renamed(name, table):
        stem, _, kind = name.rpartition(".")
        return f"{table[stem]}.{kind}" if stem in table else table[name]

    official, fused = {}, {}
    for name, value in weights.items():
        _, found, below = name.partition("transformer_blocks.")
        if not found:
            official[renamed(name, OUTSIDE)] = value
            continue
        layer, _, below = below.partition(".")
        module, _, rest = below.partition(".")
        part, _, kind = rest.partition(".")
        is_cross = module == "attn2" and part in ("to_k", "to_v")
        is_self = module == "attn1" and part in ("to_q", "to_k", "to_v")
        if is_self or is_cross:
            stem = "cross_attn.kv_linear" if is_cross else "attn.qkv"
            fused.setdefault(f"blocks.{layer}.{stem}.{kind}", {})[part] = value
        else:
            official[f"blocks.{layer}.{renamed(below, BLOCK)}"] = value
    for name, parts in fused.items():
        order = [part for part in ("to_q", "to_k", "to_v") if part in parts]
        official[name] = np.concatenate([parts[part] for part in order])
    official["pos_embed"] = np.zeros((1, 256, 32), np.float32)
    official["logvar_linear.weight"] = np.ones((1, 32), np.float32)
    official["logvar_linear.bias"] = np.ones(1, np.float32)
    null = np.arange(60, dtype=np.float32).reshape(5, 12)
    official["y_embedder.y_embedding"] = null
    return official


def save_shards(folder, weights):
    """As diffusers does above a size: two files and an index."""
    folder.mkdir()
    names = sorted(weights)
    files = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"diffusion_pytorch_model-{i:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    config = CONFIG | {"qk_norm": "rms_norm_across_heads"}
    (folder / "config.json").write_text(json.dumps(config))
