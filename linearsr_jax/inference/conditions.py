"""From what a user says of an image, tags or a file of features, to a `Condition`."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file

from linearsr_jax.models.conditioning import Condition
from linearsr_jax.models.presets import Preset
from linearsr_jax.pretrained.model_folder import PretrainedModel
from linearsr_jax.tagging.vocabulary import tag_indices

logger = logging.getLogger(__name__)

# Tags are padded to a multiple of so many: each length is a compilation.
TAGS_AT_ONCE = 16


class ConditionError(Exception):
    """A condition that the model cannot take; one line."""


def of_tags(tags: Sequence[str], preset: Preset) -> Condition | None:
    """The condition of one image with these tags; None without any.

    Args:
      tags: entries of `tagging.vocabulary.TAGS`.
      preset: of the model.

    Returns:
      tokens int32 (1, T).

    Raises:
      ConditionError: the model takes no tags.
      TagError: see `tagging.vocabulary.tag_indices`.
    """
    if not tags:
        return None
    if not preset.tag_count:
        raise ConditionError(
            "the model takes no tags; leave them out, or give it the features of a "
            "text with --condition"
        )
    return _pad(tag_indices(tags)[None], np.ones((1, len(tags)), bool), TAGS_AT_ONCE)


def of_file(path: str | Path, preset: Preset) -> Condition:
    """The condition of one image from a file of features, of whatever kind.

    Args:
      path: safetensors with `tokens` (T, F), floating point, and perhaps `mask` (T,),
        not 0 for tokens that are there.
      preset: of the model; gives F.

    Returns:
      tokens float32 (1, T, F).

    Raises:
      ConditionError: unreadable, or of other arrays, shapes or types; not finite.
    """
    try:
        arrays = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ConditionError(f"{path}: {error}") from error
    if "tokens" not in arrays or arrays.keys() - {"tokens", "mask"}:
        raise ConditionError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; a condition is "
            "`tokens` (T, F) and perhaps `mask` (T,)"
        )
    tokens = arrays["tokens"]
    size = preset.condition_features
    if tokens.ndim != 2 or tokens.shape[1] != size or not len(tokens):
        raise ConditionError(
            f"{path}: tokens are {tokens.shape}; the model takes (T, {size})"
        )
    mask = arrays.get("mask", np.ones(len(tokens)))
    if mask.shape != tokens.shape[:1]:
        raise ConditionError(
            f"{path}: mask is {mask.shape}; for these tokens it must be {len(tokens)}"
        )
    # astype alone would take integers for features.
    is_float = tokens.dtype.kind == "f" or tokens.dtype.name == "bfloat16"
    tokens = tokens.astype(np.float32)
    if not is_float or not np.isfinite(tokens).all():
        raise ConditionError(f"{path}: tokens must be floating point and finite")
    return Condition(tokens[None], mask.astype(bool)[None])


def null_of(model: PretrainedModel) -> Condition | None:
    """What the model was trained to take for no condition, if it is not no tokens.

    Of SANA's embedding of an empty text it is the first token, as in diffusers; the
    others are padding.
    """
    if model.null_condition is None:
        return None
    return Condition(model.null_condition[None, :1], np.ones((1, 1), bool))


def with_null(condition: Condition, null: Condition | None) -> Condition:
    """A batch of two: the condition, and what stands for none.

    Args:
      condition: of one image.
      null: what the model has seen for none; without, no tokens at all.
    """
    if null is None:
        null = Condition(condition.tokens, np.zeros_like(condition.mask))
    length = max(condition.mask.shape[1], null.mask.shape[1])
    both = (_pad(*one, length) for one in (condition, null))
    return Condition(*map(np.concatenate, zip(*both, strict=True)))


def _pad(tokens: np.ndarray, mask: np.ndarray, multiple: int) -> Condition:
    """Tokens that are not there, up to a multiple of so many."""
    more = -mask.shape[1] % multiple
    rest = ((0, 0),) * (tokens.ndim - 2)
    return Condition(
        np.pad(tokens, ((0, 0), (0, more), *rest)), np.pad(mask, ((0, 0), (0, more)))
    )
