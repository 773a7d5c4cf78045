"""Writes text features to files: for one text, or for all photographs with tags."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from linearsr_jax.core.tensor_files import write_tensors, write_tensors_resumably
from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.encoder import TextEncoder
from linearsr_jax.text_encoder.instruction import name_instruction, read_instruction

_logger = logging.getLogger(__name__)

# Joins the tags of a photograph.
SEPARATOR = ", "
_CONDITION = "tokens"


def check_output(path: Path, *, overwrite: bool) -> None:
    """Checks that an output can be written, before the long work begins.

    Raises:
      TextError: path exists and overwrite is False, has another suffix, or lies in no
        folder.
    """
    if path.suffix != ".safetensors":
        raise TextError(f"{path}: must end in .safetensors")
    if path.is_dir() or not path.parent.is_dir():
        raise TextError(
            f"{path}: is a folder, or its folder does not exist; name a file"
        )
    if path.exists() and not overwrite:
        raise TextError(f"{path}: exists; remove it or give --overwrite")


def find_instruction(path: Path | None) -> str:
    """Reads an instruction and logs its origin; without a file it is empty.

    Raises:
      TextError: see `read_instruction`.
    """
    if path is None:
        return ""
    instruction = read_instruction(path)
    _logger.info("linearsr: instruction: %s", name_instruction(instruction))
    return instruction


def write_condition(encoder: TextEncoder, text: str, path: Path) -> dict[str, int]:
    """Writes the features of a text, for `linearsr upscale --condition`.

    Args:
      encoder: encoder of the text.
      text: see `TextEncoder`.
      path: file to write; replaced if it exists.

    Returns:
      Counts for the command to print, by their names.

    Raises:
      TextError: see `TextEncoder`.
    """
    features = encoder(text)
    shapes = {_CONDITION: features.shape}
    metadata = {**encoder.description, "text": text}
    write_tensors(path, shapes, lambda name: features, metadata, encoder.dtype)
    return {"tokens": len(features)}


def write_features(
    encoder: TextEncoder,
    tags: Mapping[str, Sequence[str]],
    path: Path,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, int]:
    """Writes the features of photographs, for `data.condition_table.table_of_features`.

    Equal texts are encoded once. A run that is stopped can continue; see
    `write_tensors_resumably`.

    Args:
      encoder: encoder of the texts.
      tags: tags of each photograph, by its path inside the folder.
      path: file to write; replaced if it exists.
      progress: wraps the texts, to show progress.

    Returns:
      Counts for the command to print, by their names.

    Raises:
      TextError: there are no photographs; see also `TextEncoder`.
      ValueError: the unfinished file has other texts or another encoder.
    """
    if not tags:
        raise TextError("the cache contains no photographs; make it anew")
    files: dict[str, list[str]] = {}
    for file, words in sorted(tags.items()):
        files.setdefault(SEPARATOR.join(words), []).append(file)
    # Photographs with the same text follow each other, so that only the features of
    # one text are in memory.
    texts = {file: text for text, listed in files.items() for file in listed}
    lengths = {text: encoder.count(text) for text in files}
    shapes = {file: (lengths[text], encoder.width) for file, text in texts.items()}
    latest = ("", None)

    def read(file):
        nonlocal latest
        if latest[1] is None or latest[0] != texts[file]:
            latest = (texts[file], encoder(texts[file]))
        return latest[1]

    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    metadata = {**encoder.description, "texts": f"SHA-256 {digest}"}
    write_tensors_resumably(path, shapes, read, metadata, encoder.dtype, progress)
    return {
        "photographs": len(texts),
        "texts": len(files),
        "bytes": os.path.getsize(path),
    }
