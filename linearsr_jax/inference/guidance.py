"""Turns tags, or a file of features, into the network's `Guidance`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import load_file

from linearsr_jax.core.array_types import Array, Float, HostOrDevice
from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.diffusion.guidance import guide
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.presets import Preset
from linearsr_jax.pretrained.model_folder import PretrainedModel
from linearsr_jax.tagging.vocabulary import tag_indices

logger = logging.getLogger(__name__)

# Tags are padded to a multiple of this: each length is a compilation.
TAGS_AT_ONCE = 16


class ConditionError(LinearSRError):
    """Raised for a condition that the model cannot take; one line."""


class Guidance(NamedTuple):
    """The condition of one image, and how far to go beyond it.

    Attributes:
      conditional: (1, T) tokens; None runs the network without a condition.
      null: stands for no condition, with as many tokens as `conditional`. None is
        guidance off: one evaluation of the network a step instead of two.
      scale: 1 is the conditional output, 0 the null's.
    """

    conditional: Condition | None = None
    null: Condition | None = None
    scale: float = 1.0

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the network in each step."""
        return 1 if self.null is None else 2

    @property
    def conditions(self) -> Condition | None:
        """A step's conditions as one batch, (evaluations, T)."""
        if self.conditional is None or self.null is None:
            return self.conditional
        pairs = zip(self.conditional, self.null, strict=True)
        return Condition(*(jnp.concatenate(pair) for pair in pairs))

    def combine(self, outputs: Float[Array, "E h w C"]) -> Float[Array, "1 h w C"]:
        """Guides x0_hat of a step's evaluations; see `diffusion.guidance`."""
        if self.null is None:
            return outputs
        return guide(outputs[1:], outputs[:1], self.scale)


def make_guidance(
    condition: Condition | None, null: Condition | None, scale: float
) -> Guidance:
    """Chooses the conditions that the network is evaluated with in each step.

    Args:
      condition: condition of one image, or None.
      null: condition that stands for none in training, see `null_condition`; if None,
        a condition without tokens does.
      scale: see `Guidance`; ignored without a condition.
    """
    if condition is None:
        return Guidance(null)
    if scale == 1:
        return Guidance(condition)
    if null is None:
        null = Condition(condition.tokens, jnp.zeros_like(condition.mask))
    length = max(condition.mask.shape[1], null.mask.shape[1])
    return Guidance(_pad(*condition, length), _pad(*null, length), scale)


def condition_from_tags(tags: Sequence[str], preset: Preset) -> Condition | None:
    """Makes the condition of one image with these tags; None without any.

    Args:
      tags: entries of `tagging.vocabulary.TAGS`.
      preset: preset of the model.

    Returns:
      A condition whose tokens are int32 (1, T).

    Raises:
      ConditionError: the model takes no tags.
      TagError: see `tagging.vocabulary.tag_indices`.
    """
    if not tags:
        return None
    if not preset.tag_count:
        raise ConditionError(
            "the model takes no tags; leave them out, or give it the features of a "
            "text as condition (--condition)"
        )
    return _pad(tag_indices(tags)[None], np.ones((1, len(tags)), bool), TAGS_AT_ONCE)


def condition_from_file(path: str | Path, preset: Preset) -> Condition:
    """Reads the condition of one image from a file of features.

    Args:
      path: safetensors file with `tokens` (T, F), floating point, and optionally
        `mask` (T,), which is 0 for padding.
      preset: preset of the model, which sets F.

    Returns:
      A condition whose tokens are float32 (1, T, F).

    Raises:
      ConditionError: unreadable, or of other arrays, shapes or types; not finite.
    """
    try:
        # Where there is none, safetensors names it again and gives no errno.
        Path(path).open("rb").close()
        arrays = load_file(path)
    except OSError as error:
        raise ConditionError(f"{path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise ConditionError(f"{path}: is no safetensors file ({error})") from error
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
    return Condition(jnp.asarray(tokens[None]), jnp.asarray(mask.astype(bool)[None]))


def null_condition(model: PretrainedModel) -> Condition | None:
    """Returns what the model was trained with for no condition; None is no tokens.

    Of SANA's embedding of an empty text it is the first token, as in diffusers; the
    others are padding.
    """
    if model.null_condition is None:
        return None
    tokens = jnp.asarray(model.null_condition[None, :1])
    return Condition(tokens, jnp.ones((1, 1), bool))


def _pad(tokens: HostOrDevice, mask: HostOrDevice, multiple: int) -> Condition:
    """Adds masked tokens, up to a multiple of so many."""
    more = -mask.shape[1] % multiple
    rest = ((0, 0),) * (tokens.ndim - 2)
    return Condition(
        jnp.asarray(np.pad(tokens, ((0, 0), (0, more), *rest))),
        jnp.asarray(np.pad(mask, ((0, 0), (0, more)))),
    )
