"""The summary of several steps: weighted by samples, and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES
from linearsr_jax.training.metrics import (
    TrainMetrics,
    merge,
    of_sound_step,
    scalars,
)


def step_metrics(sigma, flow, *, grad_norm, denominator, dead, **values):
    sigma = jnp.array(sigma)
    return TrainMetrics.single_from_model_output(
        is_skipped=jnp.array(False),
        loss=jnp.mean(jnp.array(flow)),
        sigma=sigma,
        weights={"flow": jnp.ones_like(sigma), "l1": jnp.where(sigma < 0.5, 0.25, 0.0)},
        values={"flow": jnp.array(flow)} | {k: jnp.array(v) for k, v in values.items()},
        telemetry={
            "min_denominator": jnp.array(denominator),
            "dead_rows": jnp.array(dead),
            "max_state": jnp.array([4.0, 3.0]),
        },
        grad_norm=jnp.float32(grad_norm),
        update_norm=jnp.float32(0.5),
        param_norm=jnp.float32(10.0 * grad_norm),
    )


@pytest.fixture(scope="module")
def steps():
    return (
        step_metrics(
            [0.1, 1.0, 0.3], [6.0, 2.0, 5.0], grad_norm=3.0,
            denominator=[7.0, 0.2], dead=[0.0, 0.5], l1=[1.0, 100.0, 4.0],
        ),
        step_metrics(
            [0.2, 0.1, 0.93], [1.0, 2.0, 8.0], grad_norm=1.0,
            denominator=[9.0, np.inf], dead=[0.0, 1.0], l1=[10.0, 5.0, 100.0],
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def summary(steps):
    total = TrainMetrics.empty()
    for metrics in steps:
        total = merge(total, metrics)
    return scalars(total)


def test_flow_is_averaged_over_samples_by_sigma(summary):
    assert summary["flow_0_223"] == pytest.approx((6 + 1 + 2) / 3)
    assert summary["flow_223_875"] == 5.0
    assert summary["flow_875_939"] == 8.0
    assert summary["flow_at_one"] == 2.0


def test_what_no_sample_fell_into_is_left_out(summary):
    assert "flow_939_1000" not in summary
    assert "lpips" not in summary


def test_a_term_is_averaged_where_it_has_weight(summary):
    assert summary["l1"] == pytest.approx((1 + 4 + 10 + 5) / 4)


def test_means_extremes_and_the_last(summary):
    assert summary["loss"] == pytest.approx((13 / 3 + 11 / 3) / 2)
    assert (summary["grad_norm"], summary["grad_norm_max"]) == (2.0, 3.0)
    assert summary["param_norm"] == 10.0
    assert summary["update_to_param"] == pytest.approx((0.5 / 30 + 0.5 / 10) / 2)
    assert summary["attention_min_denominator"] == pytest.approx(0.2)
    assert summary["attention_dead_rows"] == pytest.approx((0.25 + 0.5) / 2)
    assert summary["attention_dead_rows_max"] == 1.0
    assert summary["attention_max_state"] == 4.0


def test_skipped_steps_count_for_their_share_alone(steps, summary):
    nan = jax.tree.map(lambda x: x * jnp.nan, steps[0])
    nan = nan.replace(skipped=type(nan.skipped).from_model_output(is_skipped=True))
    assert scalars(of_sound_step(nan, jnp.array(False))) == {"skipped": 1.0}
    total = TrainMetrics.empty()
    for metrics, is_finite in ((steps[0], True), (nan, False), (steps[1], True)):
        total = merge(total, of_sound_step(metrics, jnp.array(is_finite)))
    assert scalars(total) == summary | {"skipped": pytest.approx(1 / 3)}


@pytest.mark.parametrize("index", range(3))
def test_equality_belongs_to_the_noisier_side(index):
    boundary = np.float32(EXPERT_BOUNDARIES[index])
    names = ("flow_0_223", "flow_223_875", "flow_875_939", "flow_939_1000")
    for sigma, name in (
        (boundary, names[index + 1]),
        (np.nextafter(boundary, np.float32(0)), names[index]),
    ):
        metrics = step_metrics(
            [sigma], [3.0], grad_norm=1.0, denominator=[1.0], dead=[0.0], l1=[1.0]
        )
        assert scalars(metrics)[name] == 3.0
