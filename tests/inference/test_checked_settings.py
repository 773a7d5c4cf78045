"""Settings of the Python API that cannot be used: always one kind of error."""

import numpy as np
import pytest

import linearsr_jax
from linearsr_jax.inference.checked_settings import (
    SETTINGS,
    flag,
    number,
    parsed,
    whole,
)
from linearsr_jax.inference.errors import UpscaleError
from linearsr_jax.inference.guidance import ConditionError
from linearsr_jax.inference.upscaler import Upscaler


def test_numbers_of_any_kind():
    for value in (3, np.int8(3), np.uint64(3)):
        assert whole("x", value, 1, 3) == 3
        assert type(whole("x", value, 1, 3)) is int
    for value in (1, 0.5, np.float32(0.5), np.int64(1)):
        assert number("x", value, 0, 1) == value
        assert type(number("x", value, 0, 1)) is float
    for value in (True, np.bool_(True)):
        assert flag("x", value) is True


@pytest.mark.parametrize("value", [None, "2", True, 1.0, [1], 0, 4, float("nan")])
def test_no_whole_number(value):
    with pytest.raises(UpscaleError, match="x must be a whole number from 1 to 3, got"):
        whole("x", value, 1, 3)


@pytest.mark.parametrize("value", [None, "0.5", True, 1j, [1], -0.1, float("nan")])
def test_no_number(value):
    with pytest.raises(UpscaleError, match="x must be a number from 0 to 1, got"):
        number("x", value, 0, 1)


@pytest.mark.parametrize("value", [None, "no", 1, 0.0])
def test_no_flag(value):
    with pytest.raises(UpscaleError, match="x must be True or False, got"):
        flag("x", value)


def test_texts_become_numbers():
    for name, text, value in (
        ("steps", "4", 4),
        ("seed", f"{2**32 - 1}", 2**32 - 1),
        ("fidelity", "1", 1.0),
        ("scale", "2.5", 2.5),
    ):
        found = parsed(name, text)
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("text", ["", "x", "-1", "1e400", "nan", "9" * 5000])
def test_texts_that_are_no_such_number(name, text):
    with pytest.raises(UpscaleError, match=f"{name} must be a"):
        parsed(name, text)


@pytest.fixture(scope="module")
def nano():
    return Upscaler.from_pretrained("nano")


@pytest.mark.parametrize(
    "settings",
    [
        {"fidelity": "a"},
        {"scale": "2"},
        {"scale": True},
        {"size": 100},
        {"size": ([100], 20)},
        {"size": (20.5, 18.2)},
        {"size": (None, None)},
        {"max_side": "9"},
        {"guidance_scale": None},
        {"consistent": "no"},
        {"color_fix": "x"},
    ],
)
def test_settings_of_another_type(nano, settings):
    with pytest.raises(UpscaleError, match=next(iter(settings))):
        nano(np.zeros((5, 5, 3), np.uint8), **settings)


def test_tags_and_memory_of_another_type(nano):
    with pytest.raises(ConditionError, match="tags"):
        nano(np.zeros((5, 5, 3), np.uint8), tags=None)
    with pytest.raises(UpscaleError, match="max_memory must be a number"):
        Upscaler(nano.model, max_memory="4")


@pytest.mark.parametrize(
    ("kind", "fail"),
    [
        ("UpscaleError", lambda nano: nano(np.zeros((5, 5, 3), np.uint8), steps=0)),
        ("ConditionError", lambda nano: nano(np.zeros((5, 5, 3), np.uint8), tags=None)),
        ("PretrainedError", lambda nano: Upscaler.from_pretrained("absent")),
        ("ImageError", lambda nano: linearsr_jax.read_image("absent.png")),
    ],
)
def test_errors_have_one_base(nano, kind, fail):
    with pytest.raises(linearsr_jax.LinearSRError) as caught:
        fail(nano)
    assert type(caught.value) is getattr(linearsr_jax, kind)
