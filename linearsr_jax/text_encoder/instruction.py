"""Handles the instruction that SANA puts before a text.

SANA's "complex human instruction" tells the language model what to do with the text.
The features of the text have seen it; its own features are dropped. Its wording belongs
to its authors and comes from a file that you provide: `text_encoder.chi_prompt` of
NVlabs/Sana's configs, its lines joined by newlines, or the default of diffusers'
SanaPipeline.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.tokenizer import check_text

MAX_TOKENS = 300

# By SHA-256 of the UTF-8 text; the two differ in two quotation marks.
KNOWN_INSTRUCTIONS = {
    "62b9ab89eebb0ac5ee4d264bf96bf19d2b81f504bc3852500efeaf5a34d638b1": "SANA's own",
    "48290080bb4fd4a264bdc81d0647ac0221359a36506e2b3e954616d6cb48c3da": "diffusers'",
}


def read_instruction(path: Path) -> str:
    """Reads an instruction from a file, without the final newline.

    Raises:
      TextError: the file cannot be read, is empty, or has control characters.
    """
    try:
        text = path.read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path}: cannot be read: {error}") from error
    if not text:
        raise TextError(f"{path}: is empty; leave out the instruction instead")
    try:
        check_text(text)
    except TextError as error:
        raise TextError(f"{path}: {error}") from error
    return text


def name_instruction(text: str) -> str:
    """Names the origin of an instruction, as far as it is known, and its SHA-256."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{KNOWN_INSTRUCTIONS.get(digest, 'unknown')}, SHA-256 {digest}"


def select_tokens(length: int, instruction: int) -> tuple[list[int], int]:
    """Selects the tokens of an instruction and a text to keep: SANA's "select_index".

    Both counts include the BOS token. The last token of the instruction is a space.
    When a text follows, its first word absorbs the space, so the token at that index
    belongs to the text and is kept.

    Args:
      length: number of tokens of the instruction and the text together.
      instruction: number of tokens of the instruction alone; 0 without one.

    Returns:
      The indices of BOS and of the text, at most `MAX_TOKENS`, and the number of
      tokens that were too many.
    """
    end = instruction + MAX_TOKENS - 2 if instruction else MAX_TOKENS
    first = max(instruction - 1, 1)
    kept: Sequence[int] = range(first, min(length, end))
    return [0, *kept], max(length - end, 0)
