"""Which weights are a run's result."""

import numpy as np
import pytest

from linearsr_jax.config.defaults import default_config
from linearsr_jax.metrics import METRICS, Metric
from linearsr_jax.training.esgf_policy import choose_knee, judge

KNEE = 12


@pytest.fixture(scope="module")
def evaluations():
    noise = 0.02 * np.random.default_rng(0).standard_normal(40)
    return [
        {
            "step": 100 * n,
            "val_psnr_light": 20 + 8 * min(n, KNEE) / KNEE + noise[n],
            # Repeats PSNR and must not have a vote: it would not agree here.
            "val_gain_light": float(n),
        }
        for n in range(1, 40)
    ]


def choose(evaluations, *, is_over=False, **fields):
    config = default_config()
    config.esgf.stop_at_knee = True
    config.esgf.update(fields)
    return choose_knee(config, evaluations, judge(evaluations), is_over=is_over)


def test_a_knee_has_to_stand(evaluations):
    chosen = [choose(evaluations[:n], patience=4) for n in range(len(evaluations) + 1)]
    first = next(n for n, knee in enumerate(chosen) if knee is not None)
    assert abs(chosen[first] - 100 * KNEE) <= 200
    decided = judge(evaluations[:first]).decided_at_step
    assert evaluations[first - 1]["step"] == decided + 4 * 100
    assert set(chosen[:first]) == {None}


def test_at_the_end_nobody_waits(evaluations):
    decided = judge(evaluations).decided_at_step
    short = evaluations[: decided // 100]
    assert choose(short, patience=4) is None
    assert choose(short, patience=4, is_over=True) == judge(short).knee_step


def test_nobody_waits_for_more_of_a_collapse(evaluations):
    knee = judge(evaluations).knee_step
    last = evaluations[-1]["step"]
    lost = [
        {"step": last + 100 * n, "val_psnr_light": 19.0, "val_gain_light": 0.0}
        for n in range(1, 4)
    ]
    assert judge(evaluations + lost).verdict == "diverged"
    assert choose(evaluations + lost, patience=1000) == knee


def test_without_the_switch_there_is_none(evaluations):
    assert choose(evaluations, stop_at_knee=False, is_over=True) is None


def test_by_hand(evaluations):
    assert choose(evaluations[:5], knee_step=600) is None
    assert choose(evaluations[:6], knee_step=600) == 600
    assert choose(evaluations[:6], knee_step=600, stop_at_knee=False) == 600


def test_no_evaluations():
    assert judge([]).verdict == "none"
    assert choose([], is_over=True) is None


def test_metrics_whose_names_do_not_say_what_is_better(evaluations, monkeypatch):
    # As one of pyiqa, which need not be installed here.
    odd = Metric("pyiqa:odd", None, higher_is_better=False, load=lambda: None)
    monkeypatch.setitem(METRICS, odd.name, odd)
    falling = [
        {"step": row["step"], "val_pyiqa:odd_light": -row["val_psnr_light"]}
        for row in evaluations
    ]
    found = judge(falling, ["psnr", "pyiqa:odd"])
    assert (
        found.metrics["val_pyiqa:odd_light"].knee_step == judge(evaluations).knee_step
    )
    # Of a run that has dropped it: no vote, and no crash.
    assert judge(falling, ["psnr"]).metrics == {}


def test_scores_that_are_not_finite_are_missing(evaluations):
    with_gaps = [
        row | {"val_psnr_light": None if n % 7 == 3 else row["val_psnr_light"]}
        for n, row in enumerate(evaluations)
    ]
    assert abs(judge(with_gaps).knee_step - 100 * KNEE) <= 200
