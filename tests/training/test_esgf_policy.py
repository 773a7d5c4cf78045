"""Which weights are a run's result."""

import numpy as np
import pytest

from linearsr_jax.esgf.evaluation import Evaluation, Validation
from linearsr_jax.training import esgf_policy
from linearsr_jax.training.settings import EsgfSettings

KNEE = 12
SETTINGS = {
    "stop_at_knee": True,
    "patience": 3,
    "knee_step": 0,
    "candidates": 24,
    "sharpness_every": 0,
    "max_rewinds": 3,
}


def validation(step, value, **others):
    """PSNR of the averaged weights, and what must have no vote."""
    found = [Evaluation("psnr", "light", "averaged", True, value)]
    found += [
        Evaluation(name, "light", "averaged", True, other)
        for name, other in others.items()
    ]
    # The raw weights would not agree: they rise on and on.
    found.append(Evaluation("psnr", "light", "raw", True, float(step)))
    return Validation(step, tuple(found))


@pytest.fixture(scope="module")
def evaluations():
    noise = 0.02 * np.random.default_rng(0).standard_normal(40)
    return [
        validation(100 * n, 20 + 8 * min(n, KNEE) / KNEE + noise[n], gain=float(n))
        for n in range(1, 40)
    ]


def judge(evaluations, metrics=("psnr",)):
    return esgf_policy.judge(evaluations, metrics)


def choose(evaluations, *, is_over=False, **fields):
    settings = EsgfSettings(**SETTINGS | fields)
    return esgf_policy.choose_knee(
        settings, evaluations, judge(evaluations), is_over=is_over
    )


def test_a_knee_has_to_stand(evaluations):
    chosen = [choose(evaluations[:n], patience=4) for n in range(len(evaluations) + 1)]
    first = next(n for n, knee in enumerate(chosen) if knee is not None)
    assert abs(chosen[first] - 100 * KNEE) <= 200
    decided = judge(evaluations[:first]).decided_at_step
    assert evaluations[first - 1].step == decided + 4 * 100
    assert set(chosen[:first]) == {None}


def test_at_the_end_nobody_waits(evaluations):
    decided = judge(evaluations).decided_at_step
    short = evaluations[: decided // 100]
    assert choose(short, patience=4) is None
    assert choose(short, patience=4, is_over=True) == judge(short).knee_step


def test_nobody_waits_for_more_of_a_collapse(evaluations):
    knee = judge(evaluations).knee_step
    last = evaluations[-1].step
    lost = [validation(last + 100 * n, 19.0, gain=0.0) for n in range(1, 4)]
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


def test_only_the_named_metrics_of_averaged_weights_vote(evaluations):
    assert set(judge(evaluations).metrics) == {"val_psnr_light"}
    named = judge(evaluations, ("psnr", "gain"))
    assert set(named.metrics) == {"val_psnr_light", "val_gain_light"}
    # One of two is no majority.
    assert named.knee_step is None
    assert judge(evaluations, ("lpips",)).metrics == {}


def test_the_direction_is_the_metrics_own(evaluations):
    falling = [
        Validation(
            v.step,
            (Evaluation("odd", "light", "averaged", False, -v.evaluations[0].value),),
        )
        for v in evaluations
    ]
    found = judge(falling, ("odd",)).metrics["val_odd_light"]
    assert found.knee_step == judge(evaluations).knee_step


def test_scores_that_are_not_finite_are_missing(evaluations):
    with_gaps = [
        validation(v.step, np.nan) if n % 7 == 3 else v
        for n, v in enumerate(evaluations)
    ]
    assert abs(judge(with_gaps).knee_step - 100 * KNEE) <= 200
