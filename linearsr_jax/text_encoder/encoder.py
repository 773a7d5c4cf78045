"""Turns text into features, with a folder of `linearsr convert --from gemma2`."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Float, PyTree
from linearsr_jax.core.files import SUMS_FILE, check_sums
from linearsr_jax.core.tensor_files import TensorFileError, read_params
from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.gemma2 import (
    Gemma2,
    Gemma2Config,
    as_bits,
    parameter_shapes,
)
from linearsr_jax.text_encoder.instruction import name_instruction, select_tokens
from linearsr_jax.text_encoder.tokenizer import (
    TOKENIZER_FILE,
    Tokenize,
    check_text,
    load_tokenizer,
)

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "encoder.safetensors"
CONFIG_FILE = "config.json"
NAME = "gemma2"
DTYPES = ("float32", "bfloat16")

# Texts are padded to a multiple of this, because each length is compiled anew.
_TOKENS_AT_ONCE = 64


class TextEncoder:
    """Gemma 2 with its weights and tokenizer.

    Args:
      params: parameters of `Gemma2`, float32, bfloat16, or from `as_bits`.
      config: sizes.
      tokenize: function from text to token ids.
      source: identifies the weights and the tokenizer.
      dtype: type of the computation and of the features, one of `DTYPES`.
      instruction: text put before each text; see `instruction.py`.

    Attributes:
      width: F, the width of the features.
      dtype: type of the features.
      description: everything but the text that the features depend on, for metadata.
    """

    def __init__(
        self,
        params: PyTree,
        config: Gemma2Config,
        tokenize: Tokenize,
        source: str,
        dtype: str = DTYPES[0],
        instruction: str = "",
    ):
        self.width = config.width
        self.dtype = jnp.dtype(dtype)
        self.description = {
            "encoder": NAME,
            "source": source,
            "dtype": dtype,
            "instruction": name_instruction(instruction) if instruction else "none",
        }
        self._config, self._tokenize, self._instruction = config, tokenize, instruction
        self._instruction_length = len(self._ids(instruction)) if instruction else 0
        run = jax.jit(Gemma2(config, self.dtype).apply)
        self._run = lambda tokens, mask: run({"params": params}, tokens, mask)

    def count(self, text: str) -> int:
        """Counts the tokens T of a text, without computing its features.

        Raises:
          TextError: see `tokenizer.check_text`.
        """
        return len(self._select(text)[1])

    def __call__(self, text: str) -> Float[np.ndarray, "T F"]:
        """Computes the features of a text; the first belongs to the BOS token.

        Args:
          text: text of any length. Surrounding spaces are dropped, and so, with a
            warning, are tokens beyond `MAX_TOKENS`.

        Returns:
          Features of type `dtype`, with 1 <= T <= `MAX_TOKENS`.

        Raises:
          TextError: see `tokenizer.check_text`; or the features are not finite.
        """
        ids, kept, surplus = self._select(text)
        if surplus:
            logger.warning(
                "linearsr: %r ...: too long; leaving out the last %d tokens",
                text[:30],
                surplus,
            )
        # No token sees those after it, so drop what follows the last one kept.
        ids = ids[: kept[-1] + 1]
        length = -(-len(ids) // _TOKENS_AT_ONCE) * _TOKENS_AT_ONCE
        tokens = np.full((1, length), self._config.pad, np.int32)
        tokens[0, : len(ids)] = ids
        mask = np.arange(length)[None] < len(ids)
        features = np.asarray(self._run(tokens, mask))[0, kept]
        if not np.isfinite(features.astype(np.float32)).all():
            raise TextError(
                f"{text[:30]!r}: its features are not finite; convert the weights anew"
            )
        return features

    def _select(self, text: str) -> tuple[list[int], list[int], int]:
        check_text(text)
        ids = self._ids(self._instruction + text.strip())
        return ids, *select_tokens(len(ids), self._instruction_length)

    def _ids(self, text: str) -> list[int]:
        return [self._config.bos, *self._tokenize(text)]

    @classmethod
    def load(
        cls, folder: Path, dtype: str = DTYPES[0], instruction: str = ""
    ) -> "TextEncoder":
        """Loads a folder made by `linearsr convert --from gemma2`.

        Args:
          folder: the folder.
          dtype: type of the computation and of the features, one of `DTYPES`.
          instruction: text put before each text; see `instruction.py`.

        Raises:
          TextError: a file is missing, damaged, or belongs to something else; or the
            package tokenizers is not installed.
        """
        description = _read_description(folder / CONFIG_FILE)
        try:
            encoder = description["text_encoder"]
            config = Gemma2Config(**encoder["sizes"])
            stored = jnp.dtype(DTYPES[DTYPES.index(encoder["weights"])])
        except (KeyError, TypeError, ValueError) as error:
            raise TextError(f"{folder / CONFIG_FILE}: unusable: {error!r}") from error
        tokenize = load_tokenizer(folder / TOKENIZER_FILE, config.vocabulary)
        try:
            sums = check_sums(folder)
            source = f"{sums[WEIGHTS_FILE]} {sums[TOKENIZER_FILE]}"
        except ValueError as error:
            raise TextError(str(error)) from error
        except KeyError as error:
            raise TextError(f"{folder / SUMS_FILE}: lacks {error}") from error
        try:
            params = read_params(
                folder / WEIGHTS_FILE, parameter_shapes(config), stored
            )
        except TensorFileError as error:
            raise TextError(str(error)) from error
        params = jax.device_put(as_bits(params))
        return cls(params, config, tokenize, source, dtype, instruction)


def describe_encoder(config: Gemma2Config, weights: str) -> dict[str, Any]:
    """Returns the description of the weights that config.json stores.

    Args:
      config: sizes.
      weights: type of the weights, one of `DTYPES`.
    """
    return {"name": NAME, "sizes": config.to_dict(), "weights": weights}


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text("utf-8"))
        name = description["text_encoder"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TextError(
            f"{path}: describes no text encoder: {error!r}; make the folder "
            "with `linearsr convert --from gemma2`"
        ) from error
    if name != NAME:
        raise TextError(f"{path}: describes {name!r}, not {NAME}")
    return description
