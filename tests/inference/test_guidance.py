"""Conditions of one image: tags, files of features, and the null beside them."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from linearsr_jax.inference.guidance import (
    ConditionError,
    Guidance,
    condition_from_file,
    condition_from_tags,
    make_guidance,
)
from linearsr_jax.models.embeddings import Condition
from linearsr_jax.models.presets import TAG_COUNT, get_preset
from linearsr_jax.tagging.vocabulary import TAGS

DEBUG, SANA = get_preset("debug"), get_preset("600m")
FEATURES = SANA.condition_features


def test_presets_know_the_vocabulary():
    assert len(TAGS) == TAG_COUNT


def test_tags_are_padded_places_in_the_list():
    condition = condition_from_tags(["zoo", "abacus"], DEBUG)
    assert condition.tokens.shape == condition.mask.shape == (1, 16)
    assert condition.tokens.dtype == np.int32
    assert [TAGS[i] for i in condition.tokens[condition.mask]] == ["zoo", "abacus"]
    assert condition_from_tags(TAGS[:17], DEBUG).mask.shape == (1, 32)


def test_no_tags_are_no_condition():
    assert condition_from_tags([], DEBUG) is None
    assert condition_from_tags([], SANA) is None


def test_tags_need_a_model_that_knows_them():
    with pytest.raises(ConditionError, match="takes no tags"):
        condition_from_tags(["zoo"], SANA)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_file_of_features(tmp_path, dtype):
    tokens = np.arange(3 * FEATURES).reshape(3, FEATURES) % 7
    path = tmp_path / "text.safetensors"
    save_file({"tokens": tokens.astype(dtype)}, path)
    condition = condition_from_file(path, SANA)
    np.testing.assert_array_equal(condition.tokens, tokens[None].astype(np.float32))
    assert condition.tokens.dtype == np.float32
    assert condition.mask.all()
    save_file({"tokens": tokens.astype(dtype), "mask": np.array([1, 0, 1])}, path)
    assert condition_from_file(path, SANA).mask.tolist() == [[True, False, True]]


def test_missing_features(tmp_path):
    path = tmp_path / "text.safetensors"
    with pytest.raises(ConditionError) as caught:
        condition_from_file(path, SANA)
    assert str(caught.value) == f"{path}: No such file or directory"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"text": np.ones((2, FEATURES), "f4")}, "holds text"),
        ({"tokens": np.ones((2, 5), "f4")}, r"\(2, 5\); the model takes \(T, 2304\)"),
        ({"tokens": np.ones((0, FEATURES), "f4")}, r"\(0, 2304\)"),
        ({"tokens": np.ones(FEATURES, "f4")}, r"\(2304,\)"),
        ({"tokens": np.ones((2, FEATURES), "i4")}, "floating point and finite"),
        ({"tokens": np.full((2, FEATURES), np.nan, "f4")}, "floating point and finite"),
        ({"tokens": np.ones((2, FEATURES), "f4"), "mask": np.ones(3)}, "mask is"),
    ],
)
def test_unusable_features(tmp_path, arrays, message):
    path = tmp_path / "text.safetensors"
    save_file(arrays, path)
    with pytest.raises(ConditionError, match=message):
        condition_from_file(path, SANA)


def test_unreadable_features(tmp_path):
    path = tmp_path / "text.safetensors"
    with pytest.raises(ConditionError, match=str(path)):
        condition_from_file(path, SANA)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ConditionError, match=str(path)):
        condition_from_file(path, SANA)


def test_null_beside_a_condition():
    condition = condition_from_tags(["zoo"], DEBUG)
    guidance = make_guidance(condition, None, 2.0)
    assert guidance.evaluations == 2
    assert guidance.conditions.mask.sum(axis=1).tolist() == [1, 0]
    # A longer one, of features.
    condition = Condition(np.ones((1, 2, 3), "f4"), np.ones((1, 2), bool))
    null = Condition(np.full((1, 5, 3), 7, "f4"), np.ones((1, 5), bool))
    both = make_guidance(condition, null, 2.0).conditions
    assert both.tokens.shape == (2, 5, 3)
    assert both.mask.sum(axis=1).tolist() == [2, 5]
    np.testing.assert_array_equal(both.tokens[1], null.tokens[0])


def test_one_evaluation_where_guidance_is_off():
    condition, null = (condition_from_tags([tag], DEBUG) for tag in ("zoo", "sky"))
    for guidance, expected in (
        (make_guidance(condition, null, 1.0), condition),
        (make_guidance(None, null, 2.0), null),
        (make_guidance(None, None, 2.0), None),
    ):
        assert guidance.evaluations == 1
        assert guidance.conditions is expected


def test_scale_leads_from_the_null_to_the_condition_and_beyond():
    condition, null = (condition_from_tags([tag], DEBUG) for tag in ("zoo", "sky"))
    # Outputs are in the order of the conditions: 3 for the condition, 1 for the null.
    outputs = np.array([3.0, 1.0])[:, None, None, None]
    for scale, expected in ((0.0, 1.0), (1.0, 3.0), (2.5, 6.0)):
        guidance = Guidance(condition, null, scale)
        assert guidance.conditions.tokens[0, 0] == condition.tokens[0, 0]
        assert guidance.combine(outputs).tolist() == [[[[expected]]]]
