"""What is said of each photograph beside its pixels: tags, or features of any kind.

Made beforehand and kept beside the photographs, never while training. A sample's
condition goes with the whole photograph, whatever part of it the crop shows.
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
    """The conditions of photographs, in their order.

    Attributes:
      tokens: int32 (P, T) tags by their places in `vocabulary.TAGS`, or float32
        (P, T, F) features.
      mask: bool (P, T), True for tokens that are there.
    """

    tokens: np.ndarray
    mask: np.ndarray

    def row(self, index: int | slice) -> dict[str, np.ndarray]:
        """What a sample, or with a slice a batch, has of it."""
        return {
            "condition_tokens": self.tokens[index],
            "condition_mask": self.mask[index],
        }

    def known_tags(self) -> tuple[str, ...]:
        """All tags in it, in the vocabulary's order."""
        return tuple(TAGS[index] for index in np.unique(self.tokens[self.mask]))


def table_of_tags(tags: Sequence[Sequence[str]], *, max_tokens: int) -> ConditionTable:
    """The first max_tokens tags of each photograph; see `vocabulary.tag_indices`."""
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
    """The first max_tokens features of each photograph, from a file.

    Args:
      path: safetensors with an array (T, F) for each photograph, by its name.
      names: of the photographs.
      features: F.
      max_tokens: T of the table.

    Raises:
      ValueError: unreadable, photographs without features, or another F.
    """
    tokens = np.zeros((len(names), max_tokens, features), np.float32)
    mask = np.zeros(tokens.shape[:2], bool)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            missing = sorted(set(names) - set(file.keys()))
            if missing:
                raise ValueError(
                    f"{path}: no features of {len(missing)} photographs, the first "
                    f"{missing[0]}; make the file for this folder"
                )
            for row, name in enumerate(names):
                values = file.get_tensor(name)
                if values.ndim != 2 or values.shape[1] != features:
                    raise ValueError(
                        f"{path}: {name} is {values.shape}; the model takes "
                        f"(T, {features})"
                    )
                count = min(len(values), max_tokens)
                tokens[row, :count] = values[:count]
                mask[row, :count] = True
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not np.isfinite(tokens).all():
        raise ValueError(f"{path}: features that are not finite")
    return ConditionTable(tokens, mask)


class ConditionedSource:
    """Photographs with their conditions: a grain RandomAccessDataSource.

    `source[i]` is {"photo": uint8 (H, W, 3), "condition_tokens", "condition_mask"}.
    What stands in an unreadable photograph's place has no tags, not the other's.

    Args:
      source: the photographs.
      table: their conditions.
    """

    def __init__(self, source: PhotoSource, table: ConditionTable):
        self._source, self._table = source, table

    @property
    def manifest(self) -> Manifest:
        """Of the photographs."""
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
