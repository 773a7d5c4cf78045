"""The guard on simulated losses: no false alarm, and none missed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.esgf.guard import SKIPPED_IN_A_ROW, new_guard, observe

QUIET = np.ones(300)


def follow(losses):
    """The trouble after each of the losses."""

    def step(guard, loss):
        guard = observe(guard, loss, jnp.isfinite(loss))
        return guard, guard.trouble

    losses = jnp.asarray(losses, jnp.float32)
    return np.asarray(jax.jit(lambda x: jax.lax.scan(step, new_guard(), x)[1])(losses))


def noise(deviation, size, correlation=0.0):
    """Lognormal, AR(1) in the logarithm."""
    rng = np.random.default_rng(0)
    values = deviation * rng.standard_normal(size)
    for i in range(1, size):
        values[i] += correlation * values[i - 1]
    return np.exp(values)


@pytest.mark.parametrize(
    "losses",
    [
        noise(0.1, 300_000),
        noise(1.0, 300_000),
        noise(0.5, 300_000, correlation=0.5),
        np.random.default_rng(0).chisquare(1, 300_000),
        noise(0.5, 4_000) * np.geomspace(20, 1, 4_000),
        np.where(np.arange(4_000) % 500 == 499, 100, 1) * noise(0.5, 4_000),
        np.zeros(1_000),
    ],
    ids=["calm", "noisy", "correlated", "chi2", "falling", "outliers", "zero"],
)
def test_no_false_alarm(losses):
    assert not follow(losses).any()


@pytest.mark.parametrize(("deviation", "factor"), [(0.1, 2.5), (0.5, 10), (1.0, 100)])
def test_a_jump_is_seen_within_twenty_steps(deviation, factor):
    losses = noise(deviation, 2_000)
    losses[1_000:] *= factor
    trouble = follow(losses)
    first = np.argmax(trouble > 0)
    assert 1_000 <= first < 1_020
    # It stays, so that it is still there when a log is due.
    assert np.all(trouble[first:] == 2)


@pytest.mark.parametrize("is_sudden", [True, False])
def test_a_loss_that_explodes_before_the_usual_values_are_known(is_sudden):
    losses = np.geomspace(59, 3e6, 150) * noise(0.5, 150)
    if is_sudden:
        losses = np.concatenate([59 * noise(0.5, 20), np.full(10, 3e6)])
    trouble = follow(losses)
    assert trouble[-1] == 2
    assert not trouble[:15].any()


def test_steps_that_are_not_finite():
    nan = np.full(SKIPPED_IN_A_ROW, np.nan)
    trouble = follow(np.concatenate([QUIET, nan[:-1], QUIET, nan, QUIET]))
    assert np.argmax(trouble > 0) == 2 * len(QUIET) + 2 * len(nan) - 2
    assert trouble[-1] == 1


def test_skipped_losses_count_for_nothing():
    losses = noise(0.3, 500)
    with_gap = np.insert(losses, 250, [np.inf, np.nan])

    def last(losses):
        guard = new_guard()
        for loss in jnp.asarray(losses, jnp.float32):
            guard = observe(guard, loss, jnp.isfinite(loss))
        return guard

    jax.tree.map(np.testing.assert_array_equal, last(losses), last(with_gap))


def test_the_usual_values_are_mean_and_deviation():
    logs = np.random.default_rng(0).standard_normal(200)
    guard = new_guard()
    for value in logs:
        guard = observe(guard, jnp.float32(np.exp(value)), jnp.array(True))
    np.testing.assert_allclose(guard.usual, logs.mean(), atol=1e-5)
    np.testing.assert_allclose(guard.variance, logs.var(), rtol=1e-4)
