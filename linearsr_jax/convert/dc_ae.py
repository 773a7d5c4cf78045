"""Converts DC-AE f32c32 of SANA 1.0 and 1.1, from diffusers' or official weights.

    linearsr convert --from dc-ae vae/diffusion_pytorch_model.safetensors --to dc_ae

The two layouts name the same tensors differently, and the names tell which one a file
has. Official weights exist as .safetensors and as .pt, which are pickles; see
torch_pickle.py.
"""

import json
from pathlib import Path

import numpy as np

from linearsr_jax.codecs.dc_ae import WEIGHTS_FILE, DcAeCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, parameter_shapes
from linearsr_jax.codecs.loading import CONFIG_FILE, describe_codec
from linearsr_jax.convert.name_map import (
    Part,
    Row,
    check_names,
    check_shapes,
    conv,
    dense,
    depthwise,
    grouped,
    placed,
    read_part,
)
from linearsr_jax.convert.safetensors_stream import ConvertError, open_tensors
from linearsr_jax.convert.torch_pickle import PICKLE_SUFFIXES, open_pickle
from linearsr_jax.core.files import sha256
from linearsr_jax.core.tensor_files import write_tensors

_RES_BLOCK = (
    Row("conv1.kernel", "conv1.weight", "main.conv1.conv.weight", conv),
    Row("conv1.bias", "conv1.bias", "main.conv1.conv.bias"),
    Row("conv2.kernel", "conv2.weight", "main.conv2.conv.weight", conv),
    Row("norm.weight", "norm.weight", "main.conv2.norm.weight"),
    Row("norm.bias", "norm.bias", "main.conv2.norm.bias"),
)
_ATTENTION_BLOCK = (
    Row(
        "attention.qkv.kernel",
        ("attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight"),
        "context_module.main.qkv.conv.weight",
        dense,
    ),
    Row(
        "attention.multiscale_depthwise",
        "attn.to_qkv_multiscale.0.proj_in.weight",
        "context_module.main.aggreg.0.0.weight",
        depthwise,
    ),
    Row(
        "attention.multiscale_grouped",
        "attn.to_qkv_multiscale.0.proj_out.weight",
        "context_module.main.aggreg.0.1.weight",
        grouped,
    ),
    Row(
        "attention.out.kernel",
        "attn.to_out.weight",
        "context_module.main.proj.conv.weight",
        dense,
    ),
    Row(
        "attention.norm.weight",
        "attn.norm_out.weight",
        "context_module.main.proj.norm.weight",
    ),
    Row(
        "attention.norm.bias",
        "attn.norm_out.bias",
        "context_module.main.proj.norm.bias",
    ),
    Row(
        "gated_conv.expand.kernel",
        "conv_out.conv_inverted.weight",
        "local_module.main.inverted_conv.conv.weight",
        dense,
    ),
    Row(
        "gated_conv.expand.bias",
        "conv_out.conv_inverted.bias",
        "local_module.main.inverted_conv.conv.bias",
    ),
    Row(
        "gated_conv.kernel",
        "conv_out.conv_depth.weight",
        "local_module.main.depth_conv.conv.weight",
        depthwise,
    ),
    Row(
        "gated_conv.bias",
        "conv_out.conv_depth.bias",
        "local_module.main.depth_conv.conv.bias",
    ),
    Row(
        "gated_conv.project.kernel",
        "conv_out.conv_point.weight",
        "local_module.main.point_conv.conv.weight",
        dense,
    ),
    Row(
        "gated_conv.norm.weight",
        "conv_out.norm.weight",
        "local_module.main.point_conv.norm.weight",
    ),
    Row(
        "gated_conv.norm.bias",
        "conv_out.norm.bias",
        "local_module.main.point_conv.norm.bias",
    ),
)


def tensor_rows(config: DcAeConfig) -> list[Row]:
    """Lists every tensor of a DC-AE by its full names; each name is in one row."""
    rows = placed("encoder.conv_in", "encoder.conv_in", "encoder.project_in.conv")
    last = len(config.widths) - 1
    for stage in range(last + 1):
        ours = f"encoder.stages_{stage}"
        diffusers = f"encoder.down_blocks.{stage}"
        official = f"encoder.stages.{stage}.op_list"
        depth = config.encoder_depths[stage]
        for block in range(depth):
            rows += placed(
                f"{ours}.block_{block}",
                f"{diffusers}.{block}",
                f"{official}.{block}",
                _block(config, stage),
            )
        if stage < last:
            rows += placed(
                f"{ours}.down.conv",
                f"{diffusers}.{depth}.conv",
                f"{official}.{depth}.main.conv",
            )
    rows += placed(
        "encoder.conv_out",
        "encoder.conv_out",
        "encoder.project_out.main.op_list.0.conv",
    )
    rows += placed("decoder.conv_in", "decoder.conv_in", "decoder.project_in.main.conv")
    for stage in range(last + 1):
        ours = f"decoder.stages_{stage}"
        diffusers = f"decoder.up_blocks.{stage}"
        official = f"decoder.stages.{stage}.op_list"
        # The other layouts count the upsampling layer as the first block.
        first = 1 if stage < last else 0
        if first:
            rows += placed(
                f"{ours}.up.conv", f"{diffusers}.0.conv", f"{official}.0.main.conv.conv"
            )
        for block in range(config.decoder_depths[stage]):
            rows += placed(
                f"{ours}.block_{block}",
                f"{diffusers}.{first + block}",
                f"{official}.{first + block}",
                _block(config, stage),
            )
    norm = (Row("weight", "weight", "weight"), Row("bias", "bias", "bias"))
    rows += placed(
        "decoder.norm_out", "decoder.norm_out", "decoder.project_out.op_list.0", norm
    )
    rows += placed(
        "decoder.conv_out", "decoder.conv_out", "decoder.project_out.op_list.2.conv"
    )
    return rows


def match_sources(names: set[str], config: DcAeConfig) -> dict[str, Part]:
    """Finds the layout, and the source tensors that each of our tensors is made of.

    Args:
      names: names of the source's tensors.
      config: sizes.

    Returns:
      The part for each of our tensors, by our name.

    Raises:
      ConvertError: tensors are unknown or missing; the message lists them.
    """
    is_official = any(".op_list." in name for name in names)
    parts = {row.ours: row.part(is_official=is_official) for row in tensor_rows(config)}
    known = {name for part in parts.values() for name in part.theirs}
    layout = "official" if is_official else "diffusers"
    check_names(names, known, f"not a DC-AE f32c32 of SANA ({layout} names)")
    return parts


def convert(source: Path, folder: Path, config: DcAeConfig | None = None) -> int:
    """Converts a weights file to a folder for `codecs.load_codec`.

    Args:
      source: .safetensors file of either layout, official .pt file, or diffusers'
        folder of the model or of the whole pipeline.
      folder: folder to write; created if missing, and its files are replaced.
      config: sizes; by default those of f32c32.

    Returns:
      The number of parameters.

    Raises:
      ConvertError: the source cannot be read, or its tensors do not fit.
    """
    config = DcAeConfig() if config is None else config
    path = _find_file(source)
    shapes = parameter_shapes(config)
    is_pickle = path.suffix in PICKLE_SUFFIXES
    with (open_pickle if is_pickle else open_tensors)(path) as tensors:
        try:
            parts = match_sources(set(tensors), config)
        except ConvertError as error:
            raise ConvertError(f"{path}: {error}") from error
        folder.mkdir(parents=True, exist_ok=True)
        check_shapes(
            tensors, ((parts[name], shape) for name, shape in shapes.items()), str(path)
        )
        origin = f"{path.name}, SHA-256 {sha256(path)}"
        write_tensors(
            folder / WEIGHTS_FILE,
            shapes,
            lambda name: read_part(tensors, parts[name]),
            {"source": origin},
        )
    description = {
        "codec": describe_codec(DcAeCodec(params=None, config=config)),
        "source": origin,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _block(config: DcAeConfig, stage: int) -> tuple[Row, ...]:
    return _ATTENTION_BLOCK if stage >= config.first_attention else _RES_BLOCK


def _find_file(source: Path) -> Path:
    if source.is_file():
        return source
    for inside in ("", "vae"):
        path = source / inside / "diffusion_pytorch_model.safetensors"
        if path.is_file():
            return path
    raise ConvertError(
        f"{source}: no weights; give a .safetensors or .pt file, or a folder with "
        "diffusion_pytorch_model.safetensors"
    )
