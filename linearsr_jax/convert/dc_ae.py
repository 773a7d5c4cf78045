"""Converts DC-AE f32c32 of SANA 1.0 and 1.1: diffusers' or the official weights.

    linearsr convert --from dc-ae vae/diffusion_pytorch_model.safetensors --to dc_ae

The two layouts name the same tensors differently; which one a file has is told by
its names. Of the official layout there are .safetensors and, as .pt, pickles: see
torch_pickle.py.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linearsr_jax.codecs.dc_ae import WEIGHTS_FILE, DcAeCodec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, parameter_shapes
from linearsr_jax.codecs.loading import CONFIG_FILE, describe_codec
from linearsr_jax.convert.safetensors_stream import (
    ConvertError,
    open_tensors,
    write_tensors,
)
from linearsr_jax.convert.torch_pickle import PICKLE_SUFFIXES, open_pickle


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _conv(x: np.ndarray) -> np.ndarray:
    """(out, in, row, column) -> (row, column, in, out)."""
    return x.transpose(2, 3, 1, 0)


def _dense(x: np.ndarray) -> np.ndarray:
    """(out, in), or (out, in, 1, 1) of a 1x1 convolution -> (in, out)."""
    return x.reshape(x.shape[:2]).T


def _depthwise(x: np.ndarray) -> np.ndarray:
    """(channel, 1, row, column) -> (row, column, channel)."""
    return x[:, 0].transpose(1, 2, 0)


def _grouped(x: np.ndarray) -> np.ndarray:
    """(group * out, in, 1, 1), in = out -> (group, in, out)."""
    size = x.shape[1]
    return x.reshape(-1, size, size).transpose(0, 2, 1)


class Row(NamedTuple):
    """One of our tensors, below its module, and what it is made of elsewhere.

    Attributes:
      ours: our name.
      diffusers: diffusers' name; several are joined along their first axis.
      official: the name in the layout of mit-han-lab and NVlabs.
      change: from their axes to ours.
    """

    ours: str
    diffusers: str | tuple[str, ...]
    official: str
    change: Callable[[np.ndarray], np.ndarray] = _same


_CONV = (
    Row("kernel", "weight", "weight", _conv),
    Row("bias", "bias", "bias"),
)
_RES_BLOCK = (
    Row("conv1.kernel", "conv1.weight", "main.conv1.conv.weight", _conv),
    Row("conv1.bias", "conv1.bias", "main.conv1.conv.bias"),
    Row("conv2.kernel", "conv2.weight", "main.conv2.conv.weight", _conv),
    Row("norm.weight", "norm.weight", "main.conv2.norm.weight"),
    Row("norm.bias", "norm.bias", "main.conv2.norm.bias"),
)
_ATTENTION_BLOCK = (
    Row(
        "attention.qkv.kernel",
        ("attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight"),
        "context_module.main.qkv.conv.weight",
        _dense,
    ),
    Row(
        "attention.multiscale_depthwise",
        "attn.to_qkv_multiscale.0.proj_in.weight",
        "context_module.main.aggreg.0.0.weight",
        _depthwise,
    ),
    Row(
        "attention.multiscale_grouped",
        "attn.to_qkv_multiscale.0.proj_out.weight",
        "context_module.main.aggreg.0.1.weight",
        _grouped,
    ),
    Row(
        "attention.out.kernel",
        "attn.to_out.weight",
        "context_module.main.proj.conv.weight",
        _dense,
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
        _dense,
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
        _depthwise,
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
        _dense,
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
    """Every tensor of a DC-AE, with full names; each name stands in one row."""
    rows = _placed("encoder.conv_in", "encoder.conv_in", "encoder.project_in.conv")
    last = len(config.widths) - 1
    for stage in range(last + 1):
        ours = f"encoder.stages_{stage}"
        diffusers = f"encoder.down_blocks.{stage}"
        official = f"encoder.stages.{stage}.op_list"
        depth = config.encoder_depths[stage]
        for block in range(depth):
            rows += _placed(
                f"{ours}.block_{block}",
                f"{diffusers}.{block}",
                f"{official}.{block}",
                _block(config, stage),
            )
        if stage < last:
            rows += _placed(
                f"{ours}.down.conv",
                f"{diffusers}.{depth}.conv",
                f"{official}.{depth}.main.conv",
            )
    rows += _placed(
        "encoder.conv_out",
        "encoder.conv_out",
        "encoder.project_out.main.op_list.0.conv",
    )
    rows += _placed(
        "decoder.conv_in", "decoder.conv_in", "decoder.project_in.main.conv"
    )
    for stage in range(last + 1):
        ours = f"decoder.stages_{stage}"
        diffusers = f"decoder.up_blocks.{stage}"
        official = f"decoder.stages.{stage}.op_list"
        # Theirs count the upsampling layer as the first block.
        first = 1 if stage < last else 0
        if first:
            rows += _placed(
                f"{ours}.up.conv", f"{diffusers}.0.conv", f"{official}.0.main.conv.conv"
            )
        for block in range(config.decoder_depths[stage]):
            rows += _placed(
                f"{ours}.block_{block}",
                f"{diffusers}.{first + block}",
                f"{official}.{first + block}",
                _block(config, stage),
            )
    norm = (Row("weight", "weight", "weight"), Row("bias", "bias", "bias"))
    rows += _placed(
        "decoder.norm_out", "decoder.norm_out", "decoder.project_out.op_list.0", norm
    )
    rows += _placed(
        "decoder.conv_out", "decoder.conv_out", "decoder.project_out.op_list.2.conv"
    )
    return rows


def match_sources(
    names: set[str], config: DcAeConfig
) -> dict[str, tuple[tuple[str, ...], Callable[[np.ndarray], np.ndarray]]]:
    """Finds the layout and says what each of our tensors is made of.

    Args:
      names: of the source's tensors.
      config: sizes.

    Returns:
      Our name -> (the source's names, the change of axes after joining them).

    Raises:
      ConvertError: tensors are unknown or missing; it lists them.
    """
    is_official = any(".op_list." in name for name in names)
    sources = {}
    for row in tensor_rows(config):
        theirs = row.official if is_official else row.diffusers
        sources[row.ours] = (
            (theirs,) if isinstance(theirs, str) else theirs,
            row.change,
        )
    known = {name for theirs, _ in sources.values() for name in theirs}
    problems = {"missing": sorted(known - names), "unknown": sorted(names - known)}
    found = "; ".join(
        f"{len(listed)} {problem}: {', '.join(listed)}"
        for problem, listed in problems.items()
        if listed
    )
    if found:
        layout = "official" if is_official else "diffusers"
        raise ConvertError(f"not a DC-AE f32c32 of SANA ({layout} names); {found}")
    return sources


def convert(source: Path, folder: Path, config: DcAeConfig | None = None) -> int:
    """Converts a weights file to a folder that `codecs.load_codec` takes.

    Args:
      source: .safetensors of either layout, or an official .pt; or diffusers' folder
        of the model, or the whole pipeline's.
      folder: made if missing; its files are replaced.
      config: sizes; by default f32c32.

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
            sources = match_sources(set(tensors), config)
        except ConvertError as error:
            raise ConvertError(f"{path}: {error}") from error

        def read(name: str) -> np.ndarray:
            theirs, change = sources[name]
            array = np.concatenate([tensors[part]() for part in theirs])
            try:
                return change(array)
            except (ValueError, IndexError) as error:
                raise ConvertError(
                    f"{path}: {', '.join(theirs)}: unusable shape {array.shape}"
                ) from error

        folder.mkdir(parents=True, exist_ok=True)
        origin = f"{path.name}, SHA-256 {_sha256(path)}"
        write_tensors(folder / WEIGHTS_FILE, shapes, read, {"source": origin})
    description = {
        "codec": describe_codec(DcAeCodec(params=None, config=config)),
        "source": origin,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _placed(
    ours: str, diffusers: str, official: str, rows: tuple[Row, ...] = _CONV
) -> list[Row]:
    def below(names):
        if isinstance(names, str):
            return f"{diffusers}.{names}"
        return tuple(f"{diffusers}.{name}" for name in names)

    return [
        Row(
            f"{ours}.{row.ours}",
            below(row.diffusers),
            f"{official}.{row.official}",
            row.change,
        )
        for row in rows
    ]


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
