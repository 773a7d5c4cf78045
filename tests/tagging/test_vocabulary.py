"""RAM's tag list, and other people's words brought to it."""

import logging

import numpy as np
import pytest

from linearsr_jax.tagging import vocabulary
from linearsr_jax.tagging.vocabulary import (
    TAGS,
    TagError,
    parse_tags,
    ram_thresholds,
    tag_indices,
)


def test_the_list_is_rams(shared):
    assert "\n".join(TAGS) == (shared / "ram" / "ram_tag_list.txt").read_text("utf-8")
    expected = np.loadtxt(shared / "ram" / "ram_tag_list_threshold.txt")
    np.testing.assert_array_equal(ram_thresholds(), expected.astype(np.float32))


def test_the_list_as_published():
    """specs/RAM.md section 4."""
    assert len(TAGS) == len(set(TAGS)) == 4585
    # Not in order of the alphabet, and never sorted.
    assert TAGS[:5] == (
        "3D CG rendering",
        "3D glasses",
        "abacus",
        "abalone",
        "monastery",
    )
    assert TAGS[-1] == "zoo"
    assert sum(" " in tag for tag in TAGS) == 1413
    assert max(map(len, TAGS)) == 27
    thresholds = ram_thresholds()
    assert thresholds.shape == (4585,)
    assert thresholds.dtype == np.float32
    assert np.sum(thresholds == np.float32(0.65)) == 3414
    assert np.sum(thresholds == 1) == 10


def test_every_tag_is_itself():
    assert parse_tags(TAGS) == TAGS
    assert parse_tags(", ".join(TAGS).upper()) == TAGS
    np.testing.assert_array_equal(tag_indices(TAGS), np.arange(4585))


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("Rose , LEAF", ("rose", "leaf")),
        ("leaves; berries|foxes\npalm trees", ("leaf", "berry", "fox", "palm tree")),
        ("women, policewomen, children, geese", ("woman", "child", "goose")),
        ("knives, scissor, stair", ("knife", "scissors", "stair")),
        ("waterdrop, sail-boat, Café", ("water drop", "sailboat", "cafe")),
        ("T-shirt, t shirt, Tshirt", ("t-shirt", "t shirt")),
        ("rocks, ladybug, aeroplanes", ("stone", "ladybird", "plane")),
        ("rose, roses, Rose", ("rose",)),
        ("", ()),
        (" ,, ;\n", ()),
        ([], ()),
        (["rose", "", "leaf, sky"], ("rose", "leaf", "sky")),
    ],
)
def test_parse_tags(text, tags):
    assert parse_tags(text) == tags


def test_unknown_tags_are_left_out_with_a_warning(caplog):
    assert parse_tags("mountian, rose") == ("rose",)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "'mountian' is not known" in record.message
    assert "mountain" in record.message.split("near: ")[1]


@pytest.mark.parametrize("tag", ["x" * 5000, "\x1b[31mred\x07", "\0", "!?", "\ud800"])
def test_strange_tags(caplog, tag):
    assert parse_tags([tag, "rose"]) == ("rose",)
    (record,) = caplog.records
    assert len(record.message) < 200
    assert record.message.isprintable()


def test_warnings_do_not_flood(caplog):
    assert parse_tags([f"{n}qx" for n in range(1000)]) == ()
    assert len(caplog.records) == 11
    assert caplog.records[-1].message.startswith("990 more")


@pytest.mark.parametrize("tags", [b"rose", None, 3, ["rose", None], [b"rose"]])
def test_what_is_not_text_is_refused(tags):
    with pytest.raises(TypeError, match="text"):
        parse_tags(tags)


def test_tag_indices():
    indices = tag_indices(["zoo", "abacus"])
    assert indices.dtype == np.int32
    assert indices.tolist() == [4584, 2]
    assert tag_indices(()).shape == (0,)
    with pytest.raises(TagError, match="'Rose'"):
        tag_indices(["rose", "Rose"])


def test_synonyms_lead_from_unknown_words_to_tags():
    text = (vocabulary._DATA / "synonyms.txt").read_text("utf-8")
    pairs = [line.split(" = ") for line in text.splitlines()]
    words = [word for word, _ in pairs]
    assert words == sorted(set(words))
    letters = {vocabulary.letters_of(tag) for tag in TAGS}
    assert not [word for word in words if vocabulary.letters_of(word) in letters]
    assert not [tag for _, tag in pairs if tag not in TAGS]
