"""Converts RAM's checkpoint to a folder that `tagging.load_tagger` takes.

The source is ram_swin_large_14m.pth of xinyu1205/recognize-anything (Apache-2.0), a
pickle of 5.6 GB: see torch_pickle.py. The tagger is less than half of it. A
safetensors file of the same names does as well.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linearsr_jax.convert.safetensors_stream import (
    ConvertError,
    open_tensors,
    write_tensors,
)
from linearsr_jax.convert.torch_pickle import PICKLE_SUFFIXES, open_pickle
from linearsr_jax.tagging.ram import CONFIG_FILE, WEIGHTS_FILE, describe_tagger
from linearsr_jax.tagging.ram_network import RamConfig, parameter_shapes

# Known tensors that tagging does not need, by how their names begin or end.
DROPPED_PREFIXES = {
    "tag_encoder.": "writes captions; shares two layers with the tagging head",
    "text_decoder.": "writes captions",
}
DROPPED_SUFFIXES = {
    ".attn.relative_position_index": "computed from the window's size",
    ".attn_mask": "computed from the window's size",
}
# Of older checkpoints.
RENAMED_PREFIXES = {"vision_multi.": "tagging_head."}


class Row(NamedTuple):
    """One of our tensors, and what it is made of.

    Attributes:
      ours: our name.
      theirs: RAM's.
      change: from their axes to ours.
    """

    ours: str
    theirs: str
    change: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _dense(x: np.ndarray) -> np.ndarray:
    """(out, in) -> (in, out)."""
    return x.T


def _conv(x: np.ndarray) -> np.ndarray:
    """(out, in, row, column) -> (row, column, in, out)."""
    return x.transpose(2, 3, 1, 0)


def tensor_rows(config: RamConfig) -> list[Row]:
    """Every tensor of RAM's tagger; each name stands in one row."""
    rows = [
        Row("trunk.patch_conv.kernel", "visual_encoder.patch_embed.proj.weight", _conv),
        Row("trunk.patch_conv.bias", "visual_encoder.patch_embed.proj.bias", _same),
        Row("label_embed", "label_embed", _same),
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
                Row(f"{ours}.attention.bias_table", f"{theirs}.attn.{table}", _same),
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
            rows.append(Row(f"{ours}.reduction.kernel", reduction, _dense))
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
    return rows


def match_sources(names: set[str], config: RamConfig) -> dict[str, tuple[str, Row]]:
    """Says what each of our tensors is made of.

    Args:
      names: of the source's tensors.
      config: sizes.

    Returns:
      Our name -> (the source's name, its row).

    Raises:
      ConvertError: tensors are unknown or missing; it lists them.
    """
    renamed = {_rename(name): name for name in names if not _is_dropped(name)}
    rows = tensor_rows(config)
    known = {row.theirs for row in rows}
    problems = {
        "missing": sorted(known - renamed.keys()),
        "unknown": sorted(renamed[name] for name in renamed.keys() - known),
    }
    found = "; ".join(
        f"{len(listed)} {problem}: {', '.join(listed)}"
        for problem, listed in problems.items()
        if listed
    )
    if found:
        raise ConvertError(f"not RAM Swin-L; {found}")
    return {row.ours: (renamed[row.theirs], row) for row in rows}


def convert(source: Path, folder: Path, config: RamConfig | None = None) -> int:
    """Converts a checkpoint to a folder for the tagger ram:FOLDER.

    Args:
      source: the .pth, or a .safetensors file of its names.
      folder: made if missing; its files are replaced.
      config: sizes; by default Swin-L at 384 pixels.

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
            sources = match_sources(set(tensors), config)
        except ConvertError as error:
            raise ConvertError(f"{source}: {error}") from error

        def read(name: str) -> np.ndarray:
            theirs, row = sources[name]
            array = tensors[theirs]()
            try:
                return row.change(array)
            except ValueError as error:
                raise ConvertError(
                    f"{source}: {theirs}: unusable shape {array.shape}"
                ) from error

        folder.mkdir(parents=True, exist_ok=True)
        origin = f"{source.name}, SHA-256 {_sha256(source)}"
        write_tensors(folder / WEIGHTS_FILE, shapes, read, {"source": origin})
    description = {"tagger": describe_tagger(config), "source": origin}
    (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _linear(ours: str, theirs: str) -> tuple[Row, Row]:
    return (
        Row(f"{ours}.kernel", f"{theirs}.weight", _dense),
        Row(f"{ours}.bias", f"{theirs}.bias", _same),
    )


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return (
        Row(f"{ours}.scale", f"{theirs}.weight", _same),
        Row(f"{ours}.bias", f"{theirs}.bias", _same),
    )


def _is_dropped(name: str) -> bool:
    return name.startswith(tuple(DROPPED_PREFIXES)) or name.endswith(
        tuple(DROPPED_SUFFIXES)
    )


def _rename(name: str) -> str:
    for old, new in RENAMED_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
