"""The vocabulary of tags: RAM's 4,585 words, in RAM's order.

The index of a tag in `TAGS` is its identity: it is a row of RAM's output and of a
trained tag embedding. The list is therefore never sorted. `parse_tags` maps what users
type to it.

The list is RAM's, with its oddities ("dinning table", "stone" for rock): Zhang et al.,
"Recognize Anything: A Strong Image Tagging Model" (2023, arXiv 2306.03514).
"""

import difflib
import functools
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np

from linearsr_jax.core.array_types import Float, Int
from linearsr_jax.core.errors import LinearSRError

_logger = logging.getLogger(__name__)

_DATA = resources.files("linearsr_jax.tagging") / "data"

TAGS: tuple[str, ...] = tuple(
    (_DATA / "ram_tag_list.txt").read_text("utf-8").splitlines()
)
"""All tags; some consist of several words, none contains a comma."""

# Characters that people and programs put between tags; RAM itself writes " | ".
_SEPARATORS = ",;|\n"
# Limit on warnings, in case somebody passes a whole book as tags.
_MAX_WARNINGS = 10
_MAX_SHOWN = 40
# Plurals that no rule below covers, by their last letters.
_IRREGULAR = {
    "people": "person",
    "children": "child",
    "men": "man",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
}
# Endings of plurals with those of the singular; then the reverse, for tags that are
# plurals themselves ("stairs", "scissors").
_ENDINGS = (
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("es", ""),
    ("s", ""),
    ("", "s"),
    ("", "es"),
)


class TagError(LinearSRError, ValueError):
    """Raised for tags that are not in the vocabulary; one line."""


def parse_tags(text: str | Sequence[str]) -> tuple[str, ...]:
    """Maps what a user typed to tags of the vocabulary.

    Case, accents, hyphens, spacing and the plural of the last word do not matter, and
    simple synonyms are known (data/synonyms.txt). A word that is still unknown is left
    out with a warning that names the nearest tags.

    Args:
      text: tags separated by commas (semicolons, bars and line ends also separate),
        or a sequence of such texts, most often one tag each.

    Returns:
      Distinct entries of `TAGS`, in the given order.

    Raises:
      TypeError: text is neither a string nor a sequence of strings.
    """
    found: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for word in _split(text):
        tag = _find_tag(word)
        if tag is None:
            unknown[word] = None
        else:
            found[tag] = None
    for word in list(unknown)[:_MAX_WARNINGS]:
        _logger.warning("tag %s is not known and left out%s", *_describe(word))
    if len(unknown) > _MAX_WARNINGS:
        more = len(unknown) - _MAX_WARNINGS
        _logger.warning("%d more tags are not known and left out", more)
    return tuple(found)


def tag_indices(tags: Sequence[str]) -> Int[np.ndarray, "T"]:
    """Returns the indices of tags in `TAGS`, int32.

    Args:
      tags: entries of `TAGS`, spelled exactly; see `parse_tags` for other text.

    Raises:
      TagError: a tag is not in `TAGS`.
    """
    indices = _indices()
    if unknown := [tag for tag in tags if tag not in indices]:
        shown = ", ".join(_shorten(tag) for tag in unknown[:_MAX_WARNINGS])
        raise TagError(f"not in RAM's tag list: {shown}; see parse_tags")
    return np.array([indices[tag] for tag in tags], np.int32)


@functools.cache
def ram_thresholds() -> Float[np.ndarray, "4585"]:
    """Reads RAM's threshold for the probability of each tag, float32.

    Ten thresholds are 1, so RAM never gives those tags.
    """
    text = (_DATA / "ram_tag_list_threshold.txt").read_text("utf-8")
    return np.array(text.split(), np.float32)


def _split(text: str | Sequence[str]) -> Iterator[str]:
    parts = [text] if isinstance(text, str) else text
    if isinstance(parts, bytes) or not isinstance(parts, Sequence):
        raise TypeError(f"tags must be text or a list of it, got {type(text).__name__}")
    for part in parts:
        if not isinstance(part, str):
            raise TypeError(f"a tag must be text, got {part!r:.60}")
        for separator in _SEPARATORS[1:]:
            part = part.replace(separator, _SEPARATORS[0])
        yield from filter(None, map(str.strip, part.split(_SEPARATORS[0])))


def _find_tag(word: str) -> str | None:
    exact, by_letters = _lookups()
    if tag := exact.get(word.casefold()):
        return tag
    letters = letters_of(word)
    for candidate in _forms(letters):
        if tag := by_letters.get(candidate):
            return tag
    return None


def _forms(letters: str) -> Iterator[str]:
    """Yields a word, then its possible singulars and plurals."""
    yield letters
    for plural, singular in _IRREGULAR.items():
        if letters.endswith(plural):
            yield letters.removesuffix(plural) + singular
    for ending, other in _ENDINGS:
        if letters.endswith(ending):
            yield letters[: len(letters) - len(ending)] + other


def letters_of(text: str) -> str:
    """Reduces text to its letters and digits, without case and accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(filter(str.isalnum, plain))


@functools.cache
def _indices() -> dict[str, int]:
    return {tag: index for index, tag in enumerate(TAGS)}


@functools.cache
def _lookups() -> tuple[dict[str, str], dict[str, str]]:
    """Returns tags by case-folded text, and tags and synonyms by letters.

    Four pairs of tags have the same letters ("wet suit", "wetsuit"). Both members are
    found only when written exactly.
    """
    by_letters = {}
    for line in (_DATA / "synonyms.txt").read_text("utf-8").splitlines():
        word, _, tag = line.partition(" = ")
        by_letters[letters_of(word)] = tag
    for tag in reversed(TAGS):
        by_letters[letters_of(tag)] = tag
    return {tag.casefold(): tag for tag in TAGS}, by_letters


def _describe(word: str) -> tuple[str, str]:
    """Returns the word for a message, and a hint at what was meant."""
    if len(word) > _MAX_SHOWN:
        return _shorten(word), ""
    exact, _ = _lookups()
    near = difflib.get_close_matches(word.casefold(), exact, n=5)
    return _shorten(word), f"; near: {', '.join(exact[x] for x in near)}" * bool(near)


def _shorten(word: str) -> str:
    # repr keeps control characters off the terminal.
    return repr(word if len(word) <= _MAX_SHOWN else word[:_MAX_SHOWN] + "...")
