"""What goes before a text, and what is kept of the two."""

import pytest

from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.instruction import (
    MAX_TOKENS,
    name_instruction,
    read_instruction,
    select_tokens,
)


def select_as_sana(length, instruction):
    """SANA's own way: padded to the instruction's 300 + n - 2, BOS and the last 299."""
    total = instruction + MAX_TOKENS - 2
    places = [place % total for place in [0, *range(-MAX_TOKENS + 1, 0)]]
    assert len(set(places)) == MAX_TOKENS
    return [place for place in places if place < length]


@pytest.mark.parametrize("instruction", [2, 3, 210])
@pytest.mark.parametrize("more", [0, 1, 20, 297, 298, 299, 900])
def test_as_sana_selects(instruction, more):
    length = instruction + more
    kept, surplus = select_tokens(length, instruction)
    assert kept == select_as_sana(length, instruction)
    assert surplus == max(0, more - 298)
    assert kept[1] == instruction - 1


@pytest.mark.parametrize(
    ("length", "count", "surplus"), [(1, 1, 0), (300, 300, 0), (302, 300, 2)]
)
def test_without_an_instruction(length, count, surplus):
    assert select_tokens(length, 0) == (list(range(count)), surplus)


def test_the_files_last_line_end_is_not_of_it(tmp_path):
    path = tmp_path / "chi.txt"
    path.write_bytes(b"a\r\nb: \r\n")
    assert read_instruction(path) == "a\nb: "
    path.write_bytes(b"a\nb: ")
    assert read_instruction(path) == "a\nb: "


@pytest.mark.parametrize("content", [b"", b"\n", b"a\0b", b"\xff\xfe", None])
def test_unusable_files(tmp_path, content):
    path = tmp_path / "chi.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextError, match=r"chi\.txt"):
        read_instruction(path)


def test_names():
    # SHA-256 of "abc" as FIPS 180 gives it.
    assert name_instruction("abc").startswith("unknown, SHA-256 ba7816bf8f01cfea")
