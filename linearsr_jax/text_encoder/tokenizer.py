"""Text to the numbers of its tokens, by the tokenizer.json that comes with weights.

Needs the package tokenizers, extra `text`.
"""

import unicodedata
from collections.abc import Callable
from pathlib import Path

from linearsr_jax.text_encoder.base import TextError

TOKENIZER_FILE = "tokenizer.json"

# Text to ids, without what begins a text.
Tokenize = Callable[[str], list[int]]


def load_tokenizer(path: Path, vocabulary: int) -> Tokenize:
    """Reads a tokenizer.json.

    Args:
      path: of it.
      vocabulary: ids must be below.

    Raises:
      TextError: tokenizers is not installed, or the file is missing, damaged or of a
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
    # The file may ask for either.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def check_text(text: str) -> None:
    """Refuses what is no text.

    Raises:
      TextError: control characters other than tabs and line ends, or bytes that were
        not UTF-8.
    """
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cs" or (kind == "Cc" and character not in "\t\n"):
            raise TextError(
                f"the text has the character U+{ord(character):04X} in it; remove it"
            )
