"""Boundaries against published digits and closed forms; the grid as properties."""

import itertools
import math

import jax
import numpy as np
import pytest

from linearsr_jax.diffusion.experts import (
    EXPERT_BOUNDARIES,
    check_boundaries,
    expert_grid,
    find_expert,
    intervals,
    uniform_boundaries,
)
from linearsr_jax.diffusion.schedule import shift_sigma, sigma_grid, unshift_sigma
from linearsr_jax.diffusion.timestep_sampling import sample_sigma

BAD = [(0.0,), (1.0,), (0.5, 0.5), (0.6, 0.5), (-0.1,), (float("nan"),)]


def counts(grid, n):
    return np.bincount(grid.experts, minlength=n).tolist()


def test_published_boundaries_are_reconstructed():
    """From Stable Diffusion's schedule, as docs/experts.md says.

    The upper one from the whole schedule, cut off after three digits; the lower one
    from the clean end 5.85, which no source states.
    """
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.cumprod(1.0 - beta)
    log_snr = np.log(signal) - np.log1p(-signal)
    times = np.arange(1000) / 1000

    def halfway(clean, noisy):
        return np.interp(-(clean + noisy) / 2, -log_snr, times)

    lower, anchor, upper = EXPERT_BOUNDARIES
    middle = np.interp(anchor, times, log_snr)
    assert math.floor(1000 * halfway(middle, log_snr[-1])) / 1000 == upper
    assert halfway(5.85, middle) == pytest.approx(lower, abs=5e-4)
    assert halfway(log_snr[0], middle) == pytest.approx(0.153, abs=5e-4)


def test_uniform_boundaries():
    assert uniform_boundaries(1) == ()
    assert uniform_boundaries(4) == (0.25, 0.5, 0.75)
    with pytest.raises(ValueError, match="n_experts"):
        uniform_boundaries(0)


@pytest.mark.parametrize("boundaries", [*BAD, (0.5, 0.5 + 1e-9), (1.0 - 1e-9,)])
def test_bad_boundaries(boundaries):
    with pytest.raises(ValueError, match="boundaries must rise"):
        check_boundaries(boundaries)
    with pytest.raises(ValueError, match="boundaries must rise"):
        expert_grid(4, boundaries, shift=1.0, unshifted_start=1.0)


def test_intervals():
    assert intervals(()) == ((0.0, 1.0),)
    assert intervals((0.25, 0.5)) == ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0))


def test_a_boundary_belongs_to_the_noisier_expert():
    levels = [0.0, 0.222, 0.223, 0.874, 0.875, 0.938, 0.939, 1.0]
    expected = [0, 0, 1, 1, 2, 2, 3, 3]
    assert find_expert(levels, EXPERT_BOUNDARIES).tolist() == expected
    assert find_expert(np.float32(levels), EXPERT_BOUNDARIES).tolist() == expected
    assert find_expert(0.939, EXPERT_BOUNDARIES) == 3
    assert find_expert(levels, ()).tolist() == [0] * 8


@pytest.mark.parametrize("boundaries", [EXPERT_BOUNDARIES, (0.1, 0.3, 0.7), (0.9999,)])
def test_training_draws_find_the_expert_they_are_drawn_for(boundaries):
    for expert, (low, _) in enumerate(intervals(boundaries)):
        sigma = sample_sigma(
            jax.random.key(expert),
            4096,
            shift=3.0,
            mass_at_one=0.1,
            boundaries=boundaries,
            expert=expert,
        )
        found = find_expert(np.append(sigma, np.float32(low)), boundaries)
        assert np.all(found == expert)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 17, 20])
@pytest.mark.parametrize("shift", [1.0, 2.7, 3.0])
@pytest.mark.parametrize("unshifted_start", [0.5, 0.999, 1.0])
def test_one_expert_has_the_plain_grid(steps, shift, unshifted_start):
    grid = expert_grid(steps, (), shift=shift, unshifted_start=unshifted_start)
    plain = sigma_grid(steps, shift=shift, unshifted_start=unshifted_start)
    np.testing.assert_array_equal(grid.sigmas, plain)
    assert grid.experts == (0,) * steps


@pytest.mark.parametrize(
    ("shift", "steps", "expected"),
    [
        (3.0, 20, [1, 13, 2, 4]),
        (3.0, 14, [1, 8, 2, 3]),
        (3.0, 50, [4, 31, 6, 9]),
        (3.0, 4, [0, 2, 1, 1]),
        (3.0, 1, [0, 0, 0, 1]),
        (1.0, 20, [4, 13, 1, 2]),
        (1.0, 50, [11, 32, 3, 4]),
        (1.0, 4, [0, 3, 0, 1]),
    ],
)
def test_plain_grid_leaves_experts_out(shift, steps, expected):
    """As computed for the specification; why the boundaries are knots."""
    levels = sigma_grid(steps, shift=shift, unshifted_start=0.999)[:-1]
    found = np.bincount(find_expert(levels, EXPERT_BOUNDARIES), minlength=4)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    "boundaries", [(0.875,), EXPERT_BOUNDARIES, uniform_boundaries(8)]
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("unshifted_start", [0.999, 1.0])
@pytest.mark.parametrize("extra", [0, 1, 4, 16])
def test_every_expert_runs_in_its_own_interval(
    boundaries, shift, unshifted_start, extra
):
    n = len(boundaries) + 1
    steps = n + extra
    grid = expert_grid(steps, boundaries, shift=shift, unshifted_start=unshifted_start)
    assert grid.sigmas.shape == (steps + 1,)
    assert grid.sigmas.dtype == np.float64
    assert grid.sigmas[0] == shift_sigma(unshifted_start, shift)
    assert grid.sigmas[-1] == 0.0
    assert np.all(np.diff(grid.sigmas) < 0)
    assert grid.experts == tuple(sorted(grid.experts, reverse=True))
    assert set(grid.experts) == set(range(n))
    # Also as the sampler's table will have them.
    owners = find_expert(np.float32(grid.sigmas[:-1]), boundaries)
    assert tuple(owners) == grid.experts
    for b in boundaries:
        assert np.min(np.abs(grid.sigmas - b)) < 1e-7
    widths = -np.diff(unshift_sigma(grid.sigmas, shift))
    for expert in range(n):
        own = widths[np.array(grid.experts) == expert]
        np.testing.assert_allclose(own, own[0], rtol=1e-6)


@pytest.mark.parametrize("steps", range(4, 13))
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_no_other_share_of_the_steps_has_a_shorter_longest_one(steps, shift):
    grid = expert_grid(steps, EXPERT_BOUNDARIES, shift=shift, unshifted_start=1.0)
    ends = unshift_sigma(np.array([0.0, *EXPERT_BOUNDARIES, 1.0]), shift)
    best = min(
        max(np.diff(ends) / share)
        for share in itertools.product(range(1, steps), repeat=4)
        if sum(share) == steps
    )
    longest = -np.diff(unshift_sigma(grid.sigmas, shift)).min()
    assert longest == pytest.approx(best, rel=1e-6)


def test_steps_of_the_papers_experts():
    found = {
        steps: counts(
            expert_grid(steps, EXPERT_BOUNDARIES, shift=3.0, unshifted_start=1.0), 4
        )
        for steps in (1, 2, 4, 8, 20)
    }
    assert found == {
        1: [0, 0, 0, 1],
        2: [0, 1, 0, 1],
        4: [1, 1, 1, 1],
        8: [1, 4, 1, 2],
        20: [2, 12, 3, 3],
    }


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewer_steps_than_experts_walk_the_plain_grid(steps):
    grid = expert_grid(steps, EXPERT_BOUNDARIES, shift=3.0, unshifted_start=0.999)
    plain = sigma_grid(steps, shift=3.0, unshifted_start=0.999)
    np.testing.assert_array_equal(grid.sigmas, plain)
    assert grid.experts == tuple(find_expert(plain[:-1], EXPERT_BOUNDARIES))
    assert grid.experts[0] == 3


@pytest.mark.parametrize("top", [0.8, 0.75])
def test_experts_above_the_first_level_have_no_step(top):
    """At 0.75 the grid starts on the boundary itself."""
    boundaries = (0.3, 0.6, top)
    for steps in (1, 2, 3, 9):
        grid = expert_grid(steps, boundaries, shift=3.0, unshifted_start=0.5)
        assert grid.sigmas[0] == 0.75
        assert np.all(np.diff(grid.sigmas) < 0)
        assert grid.experts[0] == 2
        assert steps < 3 or set(grid.experts) == {0, 1, 2}
    none_reached = expert_grid(3, (0.8, 0.9), shift=1.0, unshifted_start=0.5)
    assert none_reached.experts == (0, 0, 0)
    with pytest.raises(ValueError, match="steps"):
        expert_grid(0, boundaries, shift=3.0, unshifted_start=0.5)
