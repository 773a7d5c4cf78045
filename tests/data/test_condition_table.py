"""Conditions of photographs on their way into the batches."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from linearsr_jax.data import pipeline
from linearsr_jax.data.condition_table import (
    ConditionedSource,
    table_of_features,
    table_of_tags,
)
from linearsr_jax.data.sources import open_source
from linearsr_jax.tagging.vocabulary import TAGS, TagError

WORDS = [("zoo", "abacus", "flower"), (), ("sky",)]


def test_table_of_tags():
    table = table_of_tags(WORDS, max_tokens=2)
    assert table.tokens.dtype == np.int32
    found = [
        [TAGS[i] for i in row[mask]]
        for row, mask in zip(table.tokens, table.mask, strict=True)
    ]
    assert found == [["zoo", "abacus"], [], ["sky"]]
    # In the list's order, which is not quite the alphabet's.
    assert table.known_tags() == ("abacus", "sky", "zoo")


def test_tags_must_be_the_vocabularys():
    with pytest.raises(TagError, match="no such thing"):
        table_of_tags([("no such thing",)], max_tokens=2)


def test_table_of_features(tmp_path):
    path = tmp_path / "features.safetensors"
    arrays = {"a": np.ones((1, 4), "f4"), "b/c": np.full((5, 4), 2, "f2")}
    save_file(arrays, path)
    table = table_of_features(path, ["b/c", "a"], features=4, max_tokens=3)
    assert table.mask.tolist() == [[True, True, True], [True, False, False]]
    np.testing.assert_array_equal(table.tokens[0], np.full((3, 4), 2))
    np.testing.assert_array_equal(table.tokens[1], [[1] * 4, [0] * 4, [0] * 4])
    with pytest.raises(
        ValueError, match="lacks the features of 1 photographs, first d"
    ):
        table_of_features(path, ["a", "d"], features=4, max_tokens=3)
    with pytest.raises(
        ValueError, match=r"a has shape \(1, 4\); the model takes \(T, 5\)"
    ):
        table_of_features(path, ["a"], features=5, max_tokens=3)
    with pytest.raises(ValueError, match="missing"):
        table_of_features(tmp_path / "missing", [], features=4, max_tokens=3)
    save_file({"a": np.full((1, 4), np.inf, "f4")}, path)
    with pytest.raises(ValueError, match="not finite"):
        table_of_features(path, ["a"], features=4, max_tokens=3)


@pytest.fixture
def source(photos):
    return open_source(photos, min_size=32, cache_bytes=0)


def batches_of(source, count=4, **fields):
    config = pipeline.PipelineConfig(crop_size=32, **fields)
    dataset = pipeline.make_dataset(source, config, seed=3, batch_size=6)
    return [dataset[i] for i in range(count)]


def test_samples_have_their_photographs_condition(source):
    table = table_of_tags(WORDS, max_tokens=2)
    batches = batches_of(ConditionedSource(source, table))
    plain = batches_of(source)
    seen = set()
    for batch, images in zip(batches, plain, strict=True):
        # The images are what they would be without.
        np.testing.assert_array_equal(batch["image_lr"], images["image_lr"])
        for image_hr, tokens, mask in zip(
            batch["image_hr"],
            batch["condition_tokens"],
            batch["condition_mask"],
            strict=True,
        ):
            row = table.mask.tolist().index(mask.tolist())
            np.testing.assert_array_equal(tokens, table.tokens[row])
            # A crop's mean colour tells the photograph: each has its own 6 x 7 tiles.
            seen.add(row)
            assert image_hr.shape == (32, 32, 3)
    assert seen == {0, 1, 2}


def test_the_condition_is_of_that_photograph(source):
    table = table_of_tags(WORDS, max_tokens=2)
    conditioned = ConditionedSource(source, table)
    for index in range(3):
        element = conditioned[index]
        np.testing.assert_array_equal(element["photo"], source[index])
        np.testing.assert_array_equal(element["condition_mask"], table.mask[index])
    assert conditioned.manifest == source.manifest


def test_dropout_leaves_the_share_out(source):
    table = table_of_tags([("sky",)] * 3, max_tokens=2)
    conditioned = ConditionedSource(source, table)
    masks = np.concatenate(
        [
            b["condition_mask"]
            for b in batches_of(conditioned, 50, condition_dropout=0.3)
        ]
    )
    share = 1 - masks[:, 0].mean()
    # 300 draws: three standard deviations are 0.08.
    assert share == pytest.approx(0.3, abs=0.08)
    with pytest.raises(ValueError, match="condition_dropout must be within"):
        pipeline.PipelineConfig(crop_size=32, condition_dropout=1.1)


def test_a_replaced_photograph_has_no_tags(source, photos, tmp_path):
    for path in photos.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = open_source(tmp_path, min_size=32, cache_bytes=0)
    conditioned = ConditionedSource(source, table_of_tags([("sky",)] * 3, max_tokens=2))
    assert conditioned[1]["condition_mask"].any()
    (tmp_path / "1.png").write_bytes(b"")
    element = conditioned[1]
    np.testing.assert_array_equal(element["photo"], source[2])
    assert not element["condition_mask"].any()
