"""Scores by name and back, and as rows of a log."""

import dataclasses
import json
import math

import pytest

from linearsr_jax.esgf.evaluation import Evaluation, Validation, parse_name

AVERAGED = Evaluation("lr_psnr", "light", "averaged", True, 41.5)
RAW = Evaluation("loss_at_110", None, "raw", False, math.nan)


@pytest.mark.parametrize(
    ("evaluation", "name"),
    [
        (AVERAGED, "val_lr_psnr_light"),
        (dataclasses.replace(AVERAGED, weights="raw"), "val_lr_psnr_light_raw"),
        (RAW, "val_loss_at_110_raw"),
        (dataclasses.replace(RAW, metric="psnr"), "val_psnr_raw"),
    ],
)
def test_names(evaluation, name):
    assert evaluation.name == name
    expected = (evaluation.metric, evaluation.degradation, evaluation.weights)
    assert parse_name(name) == expected


def test_who_votes():
    assert AVERAGED.votes(("psnr", "lr_psnr"))
    assert not AVERAGED.votes(("psnr",))
    assert not dataclasses.replace(AVERAGED, weights="raw").votes(("lr_psnr",))


def test_row_of_a_log():
    validation = Validation(500, (AVERAGED, RAW))
    assert validation.to_row(("lr_psnr",)) == {
        "step": 500,
        "val_lr_psnr_light": 41.5,
        "val_loss_at_110_raw": None,
        "higher_is_better": {"val_lr_psnr_light": True, "val_loss_at_110_raw": False},
        "voters": ["val_lr_psnr_light"],
    }


def test_json_and_back():
    validation = Validation(500, (AVERAGED,))
    text = json.dumps(dataclasses.asdict(validation))
    assert Validation.from_json(json.loads(text)) == validation
