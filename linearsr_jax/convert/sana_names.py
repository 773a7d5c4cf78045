"""Maps SANA's tensors from diffusers' and NVlabs' names, and infers their sizes.

The maps are bijections except for the names in DROPPED and NULL_CONDITION, which only
the official layout has.
"""

import re
from typing import Any

import numpy as np

from linearsr_jax.convert.name_map import (
    Part,
    Row,
    check_names,
    dense,
    depthwise,
    placed,
)
from linearsr_jax.convert.safetensors_stream import ConvertError, Sources
from linearsr_jax.models.presets import Preset, sana_preset

# Not needed: the first is computed, the others were for training only (sCM).
DROPPED = {"pos_embed", "logvar_linear.weight", "logvar_linear.bias"}
NULL_CONDITION = "y_embedder.y_embedding"
# Cross-attention heads by width. No shape of the official layout tells their number,
# nor that of the self-attention heads, whose size is 32.
CROSS_HEADS = {1152: 16, 2240: 20}
HEAD_SIZE = 32
# Side in latent pixels at 2K and 4K, which have a position embedding; its extent.
POSITION_SIDES = (64, 128)
POSITION_EXTENT = 64.0

_LINEAR = (Row("kernel", "weight", "weight", dense), Row("bias", "bias", "bias"))
_OUTSIDE = (
    *placed("patch_embed", "patch_embed.proj", "x_embedder.proj", _LINEAR),
    *placed(
        "time_embed.Dense_0",
        "time_embed.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.0",
        _LINEAR,
    ),
    *placed(
        "time_embed.Dense_1",
        "time_embed.emb.timestep_embedder.linear_2",
        "t_embedder.mlp.2",
        _LINEAR,
    ),
    *placed("time_embed.blocks", "time_embed.linear", "t_block.1", _LINEAR),
    *placed(
        "condition.Dense_0",
        "caption_projection.linear_1",
        "y_embedder.y_proj.fc1",
        _LINEAR,
    ),
    *placed(
        "condition.Dense_1",
        "caption_projection.linear_2",
        "y_embedder.y_proj.fc2",
        _LINEAR,
    ),
    Row("condition.norm.weight", "caption_norm.weight", "attention_y_norm.weight"),
    Row("scale_shift_table", "scale_shift_table", "final_layer.scale_shift_table"),
    *placed("head", "proj_out", "final_layer.linear", _LINEAR),
)
_BLOCK = (
    Row("scale_shift_table", "scale_shift_table", "scale_shift_table"),
    Row(
        "attention.qkv.kernel",
        ("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"),
        "attn.qkv.weight",
        dense,
    ),
    *placed("attention.out", "attn1.to_out.0", "attn.proj", _LINEAR),
    *placed("cross_attention.q", "attn2.to_q", "cross_attn.q_linear", _LINEAR),
    Row(
        "cross_attention.kv.kernel",
        ("attn2.to_k.weight", "attn2.to_v.weight"),
        "cross_attn.kv_linear.weight",
        dense,
    ),
    Row(
        "cross_attention.kv.bias",
        ("attn2.to_k.bias", "attn2.to_v.bias"),
        "cross_attn.kv_linear.bias",
    ),
    *placed("cross_attention.out", "attn2.to_out.0", "cross_attn.proj", _LINEAR),
    *placed("ffn.expand", "ff.conv_inverted", "mlp.inverted_conv.conv", _LINEAR),
    Row("ffn.kernel", "ff.conv_depth.weight", "mlp.depth_conv.conv.weight", depthwise),
    Row("ffn.bias", "ff.conv_depth.bias", "mlp.depth_conv.conv.bias"),
    Row(
        "ffn.project.kernel",
        "ff.conv_point.weight",
        "mlp.point_conv.conv.weight",
        dense,
    ),
)
_QK_NORM = tuple(
    Row(f"{ours}.{part}_norm.weight", f"{theirs}.norm_{part}.weight", official)
    for ours, theirs, module in (
        ("attention", "attn1", "attn"),
        ("cross_attention", "attn2", "cross_attn"),
    )
    for part in "qk"
    for official in (f"{module}.{part}_norm.weight",)
)

# Defaults for fields of diffusers' config.json that a file may lack.
_CONFIG_DEFAULTS: dict[str, Any] = {
    "in_channels": 32,
    "out_channels": None,
    "num_attention_heads": 70,
    "attention_head_dim": HEAD_SIZE,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "sample_size": 32,
    "interpolation_scale": None,
    "qk_norm": None,
    "guidance_embeds": False,
    # Only these values are supported.
    "patch_size": 1,
    "attention_bias": False,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "timestep_scale": 1.0,
}
_FIXED = (
    "patch_size",
    "attention_bias",
    "norm_elementwise_affine",
    "norm_eps",
    "timestep_scale",
)
_SPRINT = "is SANA-Sprint, which has another time embedding; give SANA 1.0 or 1.5"


def is_official(names: set[str]) -> bool:
    """Tells NVlabs' names from diffusers'."""
    return any(name.startswith("x_embedder.") for name in names)


def match_sources(names: set[str], preset: Preset) -> dict[str, list[Part]]:
    """Finds the source tensors that each of our tensors is made of.

    Args:
      names: names of the source's tensors.
      preset: preset that the source has the weights of.

    Returns:
      By our name, one part, or for tensors below `blocks` one part per layer. The LR
      stem is not included.

    Raises:
      ConvertError: tensors are unknown or missing; the message lists them.
    """
    official = is_official(names)
    parts = {row.ours: [row.part(is_official=official)] for row in _OUTSIDE}
    for layer in range(preset.depth):
        rows = placed(
            "blocks",
            f"transformer_blocks.{layer}",
            f"blocks.{layer}",
            _BLOCK + (_QK_NORM if preset.qk_norm else ()),
        )
        for row in rows:
            parts.setdefault(row.ours, []).append(row.part(is_official=official))
    known = {name for listed in parts.values() for part in listed for name in part[0]}
    extra = DROPPED | {NULL_CONDITION} if official else set()
    layout = "official" if official else "diffusers"
    check_names(names - extra, known, f"not a SANA transformer ({layout} names)")
    return parts


def preset_of_config(config: dict[str, Any]) -> Preset:
    """Infers the preset of a diffusers transformer from its config.json.

    Raises:
      ConvertError: the config describes another network, or an unsupported form.
    """
    name = config.get("_class_name")
    if name != "SanaTransformer2DModel":
        raise ConvertError(f"describes {name}, not SanaTransformer2DModel")
    found = {key: config.get(key, value) for key, value in _CONFIG_DEFAULTS.items()}
    if found["guidance_embeds"]:
        raise ConvertError(_SPRINT)
    for key in _FIXED:
        if found[key] != _CONFIG_DEFAULTS[key]:
            raise ConvertError(
                f"{key} is {found[key]}; only {_CONFIG_DEFAULTS[key]} is supported"
            )
    if found["qk_norm"] not in (None, "rms_norm_across_heads"):
        raise ConvertError(f"qk_norm {found['qk_norm']} is not supported")
    for key, default in _CONFIG_DEFAULTS.items():
        is_size = type(default) is int
        if is_size and not (type(found[key]) is int and 0 < found[key] < 10**5):
            raise ConvertError(f"{key} is {found[key]!r}, not a whole number above 0")
    for key in ("mlp_ratio", "interpolation_scale"):
        value = found[key]
        is_missing = value is None and _CONFIG_DEFAULTS[key] is None
        if not is_missing and not (type(value) in (int, float) and 0 < value < 10**5):
            raise ConvertError(f"{key} is {value!r}, not a number above 0")
    width = found["num_attention_heads"] * found["attention_head_dim"]
    cross = found["num_cross_attention_heads"] * found["cross_attention_head_dim"]
    if not width == cross == found["cross_attention_dim"]:
        raise ConvertError(
            f"the width is {width} in self-attention, {cross} in cross-attention and "
            f"{found['cross_attention_dim']} in its condition; they must be equal"
        )
    channels = found["in_channels"]
    if found["out_channels"] not in (None, channels):
        raise ConvertError(
            f"in_channels {channels} and out_channels {found['out_channels']} differ"
        )
    scale = found["interpolation_scale"]
    return sana_preset(
        width,
        found["num_layers"],
        found["num_cross_attention_heads"],
        heads=found["num_attention_heads"],
        mlp_ratio=found["mlp_ratio"],
        condition_features=found["caption_channels"],
        latent_channels=channels,
        qk_norm=found["qk_norm"] is not None,
        position_extent=None if scale is None else found["sample_size"] / scale,
        **_shifts(found["sample_size"]),
    )


def preset_of_shapes(tensors: Sources) -> Preset:
    """Infers the preset of official weights, which have no config, from their shapes.

    Raises:
      ConvertError: the weights are not SANA's, or have an unknown width.
    """
    if any(name.startswith("cfg_embedder.") for name in tensors):
        raise ConvertError(_SPRINT)
    try:
        width, channels = tensors["x_embedder.proj.weight"].shape[:2]
        features = tensors["y_embedder.y_proj.fc1.weight"].shape[1]
        expanded = tensors["blocks.0.mlp.point_conv.conv.weight"].shape[1]
    except (KeyError, IndexError, ValueError) as error:
        raise ConvertError(
            f"not a SANA transformer (official names): {error}"
        ) from error
    if width not in CROSS_HEADS:
        known = ", ".join(map(str, CROSS_HEADS))
        raise ConvertError(f"has width {width}; SANA's are {known}")
    matches = (re.match(r"blocks\.(\d+)\.", name) for name in tensors)
    side = _position_side(tensors)
    return sana_preset(
        width,
        len({match[1] for match in matches if match}),
        CROSS_HEADS[width],
        mlp_ratio=expanded / width,
        condition_features=features,
        latent_channels=channels,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
        position_extent=None if side is None else POSITION_EXTENT,
        **_shifts(side),
    )


def _position_side(tensors: Sources) -> int | None:
    """Returns the side of the position embedding in tokens, or None if it is zero."""
    if "pos_embed" not in tensors:
        return None
    embedding = tensors["pos_embed"]()
    if not np.any(embedding):
        return None
    for side in POSITION_SIDES:
        # Compare the first channel of the second token, with bfloat16's tolerance.
        sine = np.sin(POSITION_EXTENT / side)
        if (
            embedding.shape[:2] == (1, side**2)
            and abs(embedding[0, 1, 0] - sine) < 5e-3
        ):
            return side
    raise ConvertError(f"pos_embed {embedding.shape} is not that of SANA at 2K or 4K")


def _shifts(side: int | None) -> dict[str, float]:
    """Returns the shifts: 6 for SANA's 4K model."""
    return {"shift": 6.0, "sampling_shift": 6.0} if side == POSITION_SIDES[1] else {}
