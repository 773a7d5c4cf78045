"""The instruction that SANA puts before a text, and what is kept of the two.

SANA's "complex human instruction" tells the language model what to do with the text.
The features of the text have seen it; its own are left out. Its wording belongs to
its authors and comes from a file of yours: `text_encoder.chi_prompt` of NVlabs/Sana's
configs, its lines joined with line ends, or the default of diffusers' SanaPipeline.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.tokenizer import check_text

MAX_TOKENS = 300

# By the SHA-256 of their UTF-8; they differ in the kind of two quotation marks.
KNOWN_INSTRUCTIONS = {
    "62b9ab89eebb0ac5ee4d264bf96bf19d2b81f504bc3852500efeaf5a34d638b1": "SANA's own",
    "48290080bb4fd4a264bdc81d0647ac0221359a36506e2b3e954616d6cb48c3da": "diffusers'",
}


def read_instruction(path: Path) -> str:
    """Reads an instruction from a file; the line end of its last line is not of it.

    Raises:
      TextError: it cannot be read, or is empty.
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
    """Whose an instruction is, as far as known, with its SHA-256."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{KNOWN_INSTRUCTIONS.get(digest, 'unknown')}, SHA-256 {digest}"


def select_tokens(length: int, instruction: int) -> tuple[list[int], int]:
    """Which tokens of an instruction and a text are kept: SANA's "select_index".

    Both counts include the token that begins a text. The instruction's last token is
    a space; where a text follows, its first word takes that in, so the token at that
    place belongs to the text and is kept.

    Args:
      length: tokens of the instruction and the text together.
      instruction: tokens of the instruction alone; 0 without one.

    Returns:
      The first token's place and those of the text, at most `MAX_TOKENS`; and the
      number of tokens that are too many.
    """
    end = instruction + MAX_TOKENS - 2 if instruction else MAX_TOKENS
    first = max(instruction - 1, 1)
    kept: Sequence[int] = range(first, min(length, end))
    return [0, *kept], max(length - end, 0)
