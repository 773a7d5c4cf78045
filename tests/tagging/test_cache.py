"""Tags in a file: resumed after any interruption, refused when of something else."""

import json

import numpy as np
import pytest

from linearsr_jax.tagging.cache import TagCacheError, fill_tag_cache, load_tag_cache

FILES = ("a.png", "b/c.png", "d.png")


class Counting:
    """A tagger that counts, and stops the program when it is told to."""

    def __init__(self, name="count", version="1", stop_after=None):
        self.name, self.version, self.stop_after = name, version, stop_after
        self.shapes = []

    def __call__(self, image):
        if len(self.shapes) == self.stop_after:
            raise KeyboardInterrupt
        self.shapes.append(image.shape)
        return [("rose", 0.75), ("leaf", 0.123456)][: image.shape[0] % 3]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos" / "b").mkdir(parents=True)
    for number, name in enumerate(FILES):
        (tmp_path / "photos" / name).write_bytes(bytes([number]))
    return tmp_path / "photos"


def read(path):
    """An image whose height says which file it is of."""
    number = path.read_bytes()[0]
    return None if number == 255 else np.zeros((8 + number, 5, 3), np.uint8)


def fill(folder, tagger=None, files=FILES, **options):
    cache = folder.parent / "tags.jsonl"
    tagger = tagger or Counting()
    return cache, list(fill_tag_cache(cache, tagger, folder, files, read, **options))


def test_cache(folder):
    cache, found = fill(folder)
    assert [file for file, _ in found] == list(FILES)
    # Heights 8, 9 and 10.
    expected = {"a.png": ["rose", "leaf"], "b/c.png": [], "d.png": ["rose"]}
    assert load_tag_cache(cache) == expected
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    assert lines[0] == {
        "file": "a.png",
        # echo -ne '\\0' | sha256sum
        "sha256": "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "tagger": "count",
        "version": "1",
        "input": "hr",
        "tags": [["rose", 0.75], ["leaf", 0.1235]],
    }
    assert sorted(path.name for path in cache.parent.iterdir()) == [
        "photos",
        "tags.jsonl",
    ]


def test_lr_is_a_quarter(folder):
    tagger = Counting()
    cache, _ = fill(folder, tagger, input="lr")
    assert tagger.shapes == [(2, 1, 3)] * 3
    with pytest.raises(TagCacheError, match="made by count 1 lr, not count 1 hr"):
        fill(folder)
    assert set(load_tag_cache(cache)) == set(FILES)


@pytest.mark.parametrize("lost", [0, 1, 30])
def test_resumes(folder, lost):
    """Also where the last line was being written."""
    whole, _ = fill(folder)
    expected = whole.read_text()
    whole.unlink()
    with pytest.raises(KeyboardInterrupt):
        fill(folder, Counting(stop_after=2))
    part = folder.parent / "tags.jsonl.part"
    assert not whole.exists()
    text = part.read_text()
    part.write_text(text[: len(text) - lost])
    tagger = Counting()
    fill(folder, tagger)
    assert len(tagger.shapes) == (1 if lost == 0 else 2)
    assert whole.read_text() == expected
    assert not part.exists()
    # And once it is whole, nothing is done again.
    fill(folder, tagger := Counting())
    assert tagger.shapes == []


def test_new_images_are_added(folder):
    fill(folder, files=FILES[:2])
    tagger = Counting()
    cache, found = fill(folder, tagger)
    assert len(tagger.shapes) == 1
    assert len(found) == len(load_tag_cache(cache)) == 3


def test_what_cannot_be_read_is_tried_again(folder):
    (folder / "a.png").write_bytes(b"\xff")
    cache, found = fill(folder)
    assert found[0] == ("a.png", None)
    assert set(load_tag_cache(cache)) == {"b/c.png", "d.png"}
    (folder / "a.png").write_bytes(b"\0")
    fill(folder)
    assert set(load_tag_cache(cache)) == set(FILES)


def test_caches_of_something_else(folder):
    cache, _ = fill(folder)
    before = cache.read_text()
    for tagger in (Counting(name="ram"), Counting(version="2")):
        with pytest.raises(TagCacheError, match="made by count 1 hr, not"):
            fill(folder, tagger)
    with pytest.raises(TagCacheError, match=r"other images: d\.png is not in"):
        fill(folder, files=FILES[:2])
    (folder / "a.png").write_bytes(b"\1")
    with pytest.raises(TagCacheError, match=r"a\.png has changed"):
        fill(folder)
    assert cache.read_text() == before


def test_a_cache_of_several_taggers(folder):
    cache, _ = fill(folder)
    text = cache.read_text().replace('"count"', '"ram"', 1)
    cache.write_text(text)
    with pytest.raises(TagCacheError, match="several taggers"):
        load_tag_cache(cache)


LINE = {
    "file": "a.png",
    "sha256": "00",
    "tagger": "light",
    "version": "1",
    "input": "hr",
    "tags": [["rose", 0.5]],
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cut off"),
        ("{}\n", "line 1: not a line of a tag cache .*file"),
        ("[]\n", "line 1"),
        ("\n", "line 1"),
        (json.dumps(LINE), "cut off"),
        (2 * (json.dumps(LINE) + "\n"), "line 2: repeats a.png"),
        (json.dumps({**LINE, "file": 3}) + "\n", "must be text"),
        (json.dumps({**LINE, "tags": [["Roze", 0.5]]}) + "\n", "'Roze'"),
        (json.dumps({**LINE, "tags": [["rose", 2]]}) + "\n", "scores"),
        (json.dumps({**LINE, "tags": [["rose", float("nan")]]}) + "\n", "scores"),
        (json.dumps({**LINE, "tags": [["rose"]]}) + "\n", "line 1"),
        (json.dumps({**LINE, "tags": [[["rose"], 1]]}) + "\n", "line 1"),
        (json.dumps({**LINE, "tags": None}) + "\n", "line 1"),
    ],
)
def test_damaged_caches(tmp_path, text, message):
    cache = tmp_path / "tags.jsonl"
    cache.write_text(text)
    with pytest.raises(TagCacheError, match=message) as caught:
        load_tag_cache(cache)
    assert str(caught.value).startswith(str(cache))


def test_no_cache_and_no_text(tmp_path):
    with pytest.raises(TagCacheError, match="cannot be read"):
        load_tag_cache(tmp_path / "tags.jsonl")
    (tmp_path / "tags.jsonl").write_bytes(b"\xff\xfe\0")
    with pytest.raises(TagCacheError, match="cannot be read"):
        load_tag_cache(tmp_path / "tags.jsonl")
    (tmp_path / "tags.jsonl").write_bytes(b"")
    assert load_tag_cache(tmp_path / "tags.jsonl") == {}


def test_a_place_that_cannot_be_written(folder):
    tagger = Counting()
    cache = folder / "nowhere" / "tags.jsonl"
    with pytest.raises(TagCacheError, match="cannot be written") as caught:
        list(fill_tag_cache(cache, tagger, folder, FILES, read))
    assert str(caught.value).startswith(str(cache.parent))
    # Found out before the work.
    assert tagger.shapes == []
