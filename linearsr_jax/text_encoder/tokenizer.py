"""Turns text into token ids, with the tokenizer.json that comes with the weights.

Needs the package tokenizers, which the extra `text` installs.
"""

import unicodedata
from collections.abc import Callable
from pathlib import Path

from linearsr_jax.text_encoder.base import TextError

TOKENIZER_FILE = "tokenizer.json"

# From text to token ids, without the BOS token.
Tokenize = Callable[[str], list[int]]


def load_tokenizer(path: Path, vocabulary: int) -> Tokenize:
    """Reads a tokenizer.json.

    Args:
      path: the file.
      vocabulary: number of tokens that the weights know.

    Raises:
      TextError: tokenizers is not installed, or the file is missing, damaged or has a
        larger vocabulary.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise TextError(
            'encoding text needs the package tokenizers; pip install ".[text]"'
        ) from error
    try:
        tokenizer = Tokenizer.from_str(path.read_text("utf-8"))
    # tokenizers raises bare Exceptions.
    except Exception as error:
        raise TextError(f"{path}: cannot be read: {error}") from error
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocabulary:
        raise TextError(
            f"{path}: has the token {highest}, and the weights know {vocabulary}; "
            "take the one that came with them"
        )
    # The file may ask for padding or truncation.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def check_text(text: str) -> None:
    """Checks that a text can be encoded.

    Raises:
      TextError: it has control characters other than tabs and newlines, or bytes that
        were not UTF-8.
    """
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cs" or (kind == "Cc" and character not in "\t\n"):
            raise TextError(
                f"the text contains the character U+{ord(character):04X}; remove it"
            )
