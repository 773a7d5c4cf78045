"""Conditions of photographs in training: tags, or features of any kind.

They are computed beforehand and stored beside the photographs, never while training.
A condition belongs to the whole photograph, whichever part of it a crop shows.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors

from linearsr_jax.data.manifest import Manifest
from linearsr_jax.data.sources import PhotoSource
from linearsr_jax.tagging.vocabulary import TAGS, tag_indices


@dataclasses.dataclass(frozen=True)
class ConditionTable:
    """The conditions of P photographs, in the order of the photographs.

    Attributes:
      tokens: int32 (P, T), indices of tags in `vocabulary.TAGS`, or float32
        (P, T, F), features.
      mask: bool (P, T), False for padding.
    """

    tokens: np.ndarray
    mask: np.ndarray

    def row(self, index: int | slice) -> dict[str, np.ndarray]:
        """Returns the condition of one sample, or with a slice those of a batch."""
        return {
            "condition_tokens": self.tokens[index],
            "condition_mask": self.mask[index],
        }

    def known_tags(self) -> tuple[str, ...]:
        """Lists the tags that occur, in the order of the vocabulary."""
        return tuple(TAGS[index] for index in np.unique(self.tokens[self.mask]))


def table_of_tags(tags: Sequence[Sequence[str]], *, max_tokens: int) -> ConditionTable:
    """Makes a table of tags.

    Args:
      tags: the tags of each photograph; see `vocabulary.tag_indices`.
      max_tokens: T; further tags of a photograph are dropped.

    Raises:
      TagError: a tag is not in the vocabulary.
    """
    tokens = np.zeros((len(tags), max_tokens), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, words in enumerate(tags):
        indices = tag_indices(words[:max_tokens])
        tokens[row, : len(indices)] = indices
        mask[row, : len(indices)] = True
    return ConditionTable(tokens, mask)


def table_of_features(
    path: str | os.PathLike, names: Sequence[str], *, features: int, max_tokens: int
) -> ConditionTable:
    """Makes a table of features from a file.

    Args:
      path: safetensors file with an array (T, F) under the name of each photograph.
      names: names of the photographs.
      features: F, the width of the features.
      max_tokens: T of the table; further tokens of a photograph are dropped.

    Raises:
      ValueError: the file cannot be read, lacks a photograph, or has features of
        another width or that are not finite.
    """
    tokens = np.zeros((len(names), max_tokens, features), np.float32)
    mask = np.zeros(tokens.shape[:2], bool)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            missing = sorted(set(names) - set(file.keys()))
            if missing:
                raise ValueError(
                    f"{path}: lacks the features of {len(missing)} photographs, first "
                    f"{missing[0]}; make the file for this folder"
                )
            for row, name in enumerate(names):
                values = file.get_tensor(name)
                if values.ndim != 2 or values.shape[1] != features:
                    raise ValueError(
                        f"{path}: {name} has shape {values.shape}; the model takes "
                        f"(T, {features})"
                    )
                count = min(len(values), max_tokens)
                tokens[row, :count] = values[:count]
                mask[row, :count] = True
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not np.isfinite(tokens).all():
        raise ValueError(f"{path}: contains features that are not finite; make it anew")
    return ConditionTable(tokens, mask)


class ConditionedSource:
    """Photographs with their conditions: a grain RandomAccessDataSource.

    `source[i]` is {"photo": uint8 (H, W, 3), "condition_tokens", "condition_mask"}.
    Where an unreadable photograph is replaced by another, the sample has no condition.

    Args:
      source: the photographs.
      table: the conditions of these photographs.
    """

    def __init__(self, source: PhotoSource, table: ConditionTable):
        self._source, self._table = source, table

    @property
    def manifest(self) -> Manifest:
        """Manifest of the photographs."""
        return self._source.manifest

    def __len__(self) -> int:
        return len(self._source)

    def __repr__(self) -> str:
        return f"ConditionedSource({self._source!r})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        photo = self._source[index]
        row = self._table.row(index)
        if self._source.names[index] in self._source.replaced:
            row["condition_mask"] = np.zeros_like(row["condition_mask"])
        return {"photo": photo, **row}
