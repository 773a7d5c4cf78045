"""Solver tables against the published formulas, and the order of convergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.diffusion.experts import EXPERT_BOUNDARIES, expert_grid
from linearsr_jax.diffusion.samplers import (
    SOLVERS,
    SolverTable,
    dpm_solver_pp,
    euler,
    start_from,
    take_steps,
)
from linearsr_jax.diffusion.schedule import sigma_grid

SHAPE = (2, 3, 4, 5)
STARTS = [0.999, 1.0]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def sample(denoise, noise, table):
    return take_steps(denoise, start_from(noise), table).x


def start(shape=SHAPE):
    return np.random.default_rng(0).standard_normal(shape)


def denoise(x, sigma, xp=jnp):
    """Some smooth x0_hat that depends on both arguments and is not linear."""
    return xp.tanh(0.7 * x + sigma) * (1.3 - 0.4 * sigma**2)


def naive_euler(x, sigmas):
    for i in range(len(sigmas) - 1):
        velocity = (x - denoise(x, sigmas[i], np)) / sigmas[i]
        x = x + (sigmas[i + 1] - sigmas[i]) * velocity
    return x


def naive_dpm_solver(x, sigmas):
    """Flow-DPM-Solver++ step by step, as its formulas are published.

    lambda is infinite at the two ends; numpy's infinities do what the limits do.
    """
    with np.errstate(divide="ignore"):
        lam = np.log((1 - sigmas) / sigmas)
    steps, before = len(sigmas) - 1, None
    for i in range(steps):
        x0_hat = denoise(x, sigmas[i], np)
        h = lam[i + 1] - lam[i]
        if i == steps - 1:
            x = x0_hat
            continue
        d = x0_hat
        if i > 0:
            r = (lam[i] - lam[i - 1]) / h
            d = x0_hat + (x0_hat - before) / (2 * r)
        x = (sigmas[i + 1] / sigmas[i]) * x + (1 - sigmas[i + 1]) * (1 - np.exp(-h)) * d
        before = x0_hat
    return x


NAIVE = {"euler": naive_euler, "dpm_solver_pp": naive_dpm_solver}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("unshifted_start", STARTS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_equals_the_published_formulas(x64, solver, unshifted_start, steps):
    sigmas = sigma_grid(steps, shift=3.0, unshifted_start=unshifted_start)
    actual = sample(denoise, jnp.asarray(start()), SOLVERS[solver](sigmas))
    assert actual.dtype == jnp.float64
    expected = NAIVE[solver](start(), sigmas)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_tables_are_finite_and_weigh_to_one(solver):
    """Noise scales with sigma, so at fixed x0_hat the weights are determined."""
    for steps in (1, 2, 5, 20):
        for unshifted_start in STARTS:
            sigmas = sigma_grid(steps, shift=3.0, unshifted_start=unshifted_start)
            table = SOLVERS[solver](sigmas)
            for column in table:
                assert column.shape == (steps,)
                assert column.dtype == np.float64
                assert np.all(np.isfinite(column))
            np.testing.assert_array_equal(table.sigma, sigmas[:-1])
            # x_sigma of one x0 and one noise goes to x_sigma' of the same two.
            np.testing.assert_allclose(table.decay * table.sigma, sigmas[1:])
            np.testing.assert_allclose(
                table.decay * (1 - sigmas[:-1]) + table.current + table.previous,
                1 - sigmas[1:],
                atol=1e-14,
            )


def test_solvers_visit_the_published_timesteps():
    sigmas = sigma_grid(4, shift=3.0, unshifted_start=0.999)
    for solver in SOLVERS.values():
        assert [int(1000 * s) for s in solver(sigmas).sigma] == [999, 899, 749, 499]


def test_dpm_solver_uses_history_where_it_may():
    """First order in the first and last step, and where lambda starts infinite."""
    table = dpm_solver_pp(sigma_grid(5, shift=3.0, unshifted_start=0.999))
    assert [bool(p) for p in table.previous] == [False, True, True, True, False]
    table = dpm_solver_pp(sigma_grid(5, shift=3.0, unshifted_start=1.0))
    assert [bool(p) for p in table.previous] == [False, False, True, True, False]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("unshifted_start", STARTS)
def test_one_step_is_x0_hat_exactly(solver, unshifted_start):
    noise = jnp.asarray(start(), jnp.float32)
    sigmas = sigma_grid(1, shift=3.0, unshifted_start=unshifted_start)
    actual = sample(denoise, noise, SOLVERS[solver](sigmas))
    expected = jax.jit(denoise)(noise, jnp.float32(sigmas[0]))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_constant_denoiser_is_returned(solver, steps):
    constant = jnp.asarray(start() + 1.0, jnp.float32)
    table = SOLVERS[solver](sigma_grid(steps, shift=3.0, unshifted_start=1.0))
    noise = jax.random.normal(jax.random.key(3), SHAPE)
    actual = sample(lambda x, sigma: constant, noise, table)
    np.testing.assert_allclose(actual, constant, atol=2e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_table_may_be_cut_anywhere(x64, solver):
    """The state holds the solver's whole memory."""
    table = SOLVERS[solver](sigma_grid(6, shift=3.0, unshifted_start=0.999))
    whole = sample(denoise, jnp.asarray(start()), table)
    state = start_from(jnp.asarray(start()))
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6)):
        part = SolverTable(*(column[rows] for column in table))
        state = take_steps(denoise, state, part)
    np.testing.assert_allclose(state.x, whole, rtol=1e-14)


def test_denoise_sees_the_noise_first_and_one_call_per_step():
    noise = jnp.asarray(start(), jnp.float32)
    seen = []
    sigmas = sigma_grid(3, shift=3.0, unshifted_start=1.0)

    def spy(x, sigma):
        jax.debug.callback(lambda *args: seen.append(args), x, sigma, ordered=True)
        return jnp.zeros_like(x)

    sample(spy, noise, euler(sigmas)).block_until_ready()
    jax.effects_barrier()
    assert len(seen) == 3
    np.testing.assert_array_equal(seen[0][0], noise)
    np.testing.assert_allclose([sigma for _, sigma in seen], sigmas[:-1], rtol=1e-7)


# Data x0 ~ N(MEAN, STD^2): the best x0_hat is known, and the flow's solution carries
# z in x = (1 - sigma) MEAN + sqrt((1 - sigma)^2 STD^2 + sigma^2) z unchanged.
MEAN, STD = 0.7, 0.8


def spread(sigma):
    return ((1 - sigma) ** 2 * STD**2 + sigma**2) ** 0.5


def gaussian_denoise(x, sigma):
    gain = (1 - sigma) * STD**2 / spread(sigma) ** 2
    return MEAN + gain * (x - (1 - sigma) * MEAN)


def gaussian_errors(solver, steps, unshifted_start, boundaries=()):
    x = jnp.linspace(-2.0, 2.0, 9)[None, None, None]
    errors = []
    for n in steps:
        sigmas, _ = expert_grid(
            n, boundaries, shift=1.0, unshifted_start=unshifted_start
        )
        z = (x - (1 - sigmas[0]) * MEAN) / spread(sigmas[0])
        actual = sample(gaussian_denoise, x, SOLVERS[solver](sigmas))
        errors.append(float(jnp.max(jnp.abs(actual - (MEAN + STD * z)))))
    return np.array(errors)


@pytest.mark.parametrize("boundaries", [(), EXPERT_BOUNDARIES])
@pytest.mark.parametrize("unshifted_start", STARTS)
@pytest.mark.parametrize(
    ("solver", "low", "high"), [("euler", 0.9, 1.1), ("dpm_solver_pp", 1.7, 2.1)]
)
def test_order_of_convergence(x64, solver, low, high, unshifted_start, boundaries):
    """Down to sigma = 0, where lambda is infinite, the error is log(n) / n^2.

    That is a slope of about 1.8 here, against 1 for a first-order solver.
    """
    steps = np.array([64, 128, 256])
    errors = gaussian_errors(solver, steps, unshifted_start, boundaries)
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert low < slope < high, (slope, errors)
    assert errors[-1] < 0.01


def test_after_a_short_step_it_extrapolates_no_further_than_the_last_change():
    sigmas, _ = expert_grid(4, EXPERT_BOUNDARIES, shift=3.0, unshifted_start=1.0)
    table = dpm_solver_pp(sigmas)
    # From 0.875 to 0.223, after 0.939 to 0.875: four times as far, in lambda.
    gain = table.current[2] + table.previous[2]
    assert table.current[2] == pytest.approx(2 * gain)
    assert table.previous[2] == pytest.approx(-gain)
