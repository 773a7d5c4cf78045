"""Converts RAM's checkpoint to a folder for `tagging.load_tagger`.

The source is ram_swin_large_14m.pth of xinyu1205/recognize-anything (Apache-2.0), a
pickle of 5.6 GB; see torch_pickle.py. The tagger is less than half of it. A safetensors
file with the same names works too.
"""

import json
from pathlib import Path

import numpy as np

from linearsr_jax.convert.name_map import (
    Change,
    Part,
    check_names,
    check_shapes,
    conv,
    dense,
    read_part,
    same,
)
from linearsr_jax.convert.safetensors_stream import (
    ConvertError,
    Sources,
    open_tensors,
)
from linearsr_jax.convert.torch_pickle import PICKLE_SUFFIXES, open_pickle
from linearsr_jax.core.files import sha256
from linearsr_jax.core.tensor_files import write_tensors
from linearsr_jax.tagging.ram import CONFIG_FILE, WEIGHTS_FILE, describe_tagger
from linearsr_jax.tagging.ram_network import RamConfig, parameter_shapes

# Known tensors that tagging does not need, by the beginning or end of their names.
DROPPED_PREFIXES = {
    "tag_encoder.": "writes captions; shares two layers with the tagging head",
    "text_decoder.": "writes captions",
}
DROPPED_SUFFIXES = {
    ".attn.relative_position_index": "computed from the window's size",
    ".attn_mask": "computed from the window's size",
}
# Names in older checkpoints.
RENAMED_PREFIXES = {"vision_multi.": "tagging_head."}


def tensor_parts(config: RamConfig) -> dict[str, Part]:
    """Lists RAM's tensor for each of our tensors; each of RAM's names occurs once."""
    rows = [
        _row("trunk.patch_conv.kernel", "visual_encoder.patch_embed.proj.weight", conv),
        _row("trunk.patch_conv.bias", "visual_encoder.patch_embed.proj.bias", same),
        _row("label_embed", "label_embed", same),
        *_norm("trunk.patch_norm", "visual_encoder.patch_embed.norm"),
        *_norm("trunk.norm", "visual_encoder.norm"),
        *_linear("image_proj", "image_proj"),
        *_linear("wordvec_proj", "wordvec_proj"),
        *_linear("fc", "fc"),
    ]
    for stage, depth in enumerate(config.trunk.depths):
        for block in range(depth):
            ours = f"trunk.stage_{stage}_block_{block}"
            theirs = f"visual_encoder.layers.{stage}.blocks.{block}"
            table = "relative_position_bias_table"
            rows += [
                _row(f"{ours}.attention.bias_table", f"{theirs}.attn.{table}", same),
                *_linear(f"{ours}.attention.qkv", f"{theirs}.attn.qkv"),
                *_linear(f"{ours}.attention.proj", f"{theirs}.attn.proj"),
                *_linear(f"{ours}.fc1", f"{theirs}.mlp.fc1"),
                *_linear(f"{ours}.fc2", f"{theirs}.mlp.fc2"),
                *_norm(f"{ours}.norm1", f"{theirs}.norm1"),
                *_norm(f"{ours}.norm2", f"{theirs}.norm2"),
            ]
        if stage < len(config.trunk.depths) - 1:
            ours = f"trunk.merge_{stage}"
            theirs = f"visual_encoder.layers.{stage}.downsample"
            rows += _norm(f"{ours}.norm", f"{theirs}.norm")
            reduction = f"{theirs}.reduction.weight"
            rows.append(_row(f"{ours}.reduction.kernel", reduction, dense))
    for layer in range(config.layers):
        ours = f"layers_{layer}"
        theirs = f"tagging_head.encoder.layer.{layer}"
        attention = f"{theirs}.crossattention"
        rows += [
            *_linear(f"{ours}.query", f"{attention}.self.query"),
            *_linear(f"{ours}.key", f"{attention}.self.key"),
            *_linear(f"{ours}.value", f"{attention}.self.value"),
            *_linear(f"{ours}.attention_out", f"{attention}.output.dense"),
            *_norm(f"{ours}.attention_norm", f"{attention}.output.LayerNorm"),
            *_linear(f"{ours}.fc1", f"{theirs}.intermediate.dense"),
            *_linear(f"{ours}.fc2", f"{theirs}.output.dense"),
            *_norm(f"{ours}.norm", f"{theirs}.output.LayerNorm"),
        ]
    return dict(rows)


def match_sources(tensors: Sources, config: RamConfig) -> dict[str, Part]:
    """Matches `tensor_parts` to the tensors of a source.

    Args:
      tensors: tensors of the source.
      config: sizes.

    Raises:
      ConvertError: tensors are unknown, missing or of another shape; the message lists
        them.
    """
    what = "not RAM Swin-L"
    renamed = {_rename(name): name for name in tensors if not _is_dropped(name)}
    parts = tensor_parts(config)
    known = {part.theirs[0] for part in parts.values()}
    check_names(set(renamed), known, what)
    found = {
        ours: Part((renamed[part.theirs[0]],), part.change)
        for ours, part in parts.items()
    }
    shapes = parameter_shapes(config)
    check_shapes(tensors, ((found[name], shapes[name]) for name in shapes), what)
    return found


def convert(source: Path, folder: Path, config: RamConfig | None = None) -> int:
    """Converts a checkpoint to a folder for the tagger ram:FOLDER.

    Args:
      source: the .pth file, or a .safetensors file with the same names.
      folder: folder to write; created if missing, and its files are replaced.
      config: sizes; by default those of Swin-L at 384 pixels.

    Returns:
      The number of parameters.

    Raises:
      ConvertError: the source cannot be read, or its tensors do not fit.
    """
    config = RamConfig() if config is None else config
    if not source.is_file():
        raise ConvertError(f"{source}: no such file; give ram_swin_large_14m.pth")
    shapes = parameter_shapes(config)
    is_pickle = source.suffix in PICKLE_SUFFIXES
    opened = open_pickle(source, "model") if is_pickle else open_tensors(source)
    with opened as tensors:
        try:
            parts = match_sources(tensors, config)
        except ConvertError as error:
            raise ConvertError(f"{source}: {error}") from error
        folder.mkdir(parents=True, exist_ok=True)
        origin = f"{source.name}, SHA-256 {sha256(source)}"
        write_tensors(
            folder / WEIGHTS_FILE,
            shapes,
            lambda name: read_part(tensors, parts[name]),
            {"source": origin},
        )
    description = {"tagger": describe_tagger(config), "source": origin}
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _row(ours: str, theirs: str, change: Change) -> tuple[str, Part]:
    return ours, Part((theirs,), change)


def _linear(ours: str, theirs: str) -> list[tuple[str, Part]]:
    return [
        _row(f"{ours}.kernel", f"{theirs}.weight", dense),
        _row(f"{ours}.bias", f"{theirs}.bias", same),
    ]


def _norm(ours: str, theirs: str) -> list[tuple[str, Part]]:
    return [
        _row(f"{ours}.scale", f"{theirs}.weight", same),
        _row(f"{ours}.bias", f"{theirs}.bias", same),
    ]


def _is_dropped(name: str) -> bool:
    return name.startswith(tuple(DROPPED_PREFIXES)) or name.endswith(
        tuple(DROPPED_SUFFIXES)
    )


def _rename(name: str) -> str:
    for old, new in RENAMED_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
