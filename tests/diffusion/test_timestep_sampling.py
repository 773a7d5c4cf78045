"""Training's noise levels against the logit-normal's closed form."""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import logit, ndtr

from linearsr_jax.diffusion.timestep_sampling import sample_sigma

BOUNDS = [0.0, 0.223, 0.875, 0.939, 1.0]
INTERVALS = list(itertools.pairwise(BOUNDS))
N = 2**15
# Kolmogorov-Smirnov at one in a hundred; keys are fixed, so this does not flicker.
KS_BOUND = 1.63 / np.sqrt(N)

# Mass of the four intervals per shift, as computed for the specification.
MASS = {
    1.0: [0.1060, 0.8682, 0.0227, 0.0031],
    3.0: [0.0095, 0.7921, 0.1474, 0.0510],
    4.0: [0.0042, 0.7079, 0.1990, 0.0889],
    6.0: [0.0012, 0.5601, 0.2657, 0.1730],
}


def draw(shift, *, mass_at_one=0.0, interval=(0.0, 1.0), seed=0, n=N):
    """Draws of the expert whose interval that is."""
    sigma = sample_sigma(
        jax.random.key(seed),
        n,
        shift=shift,
        mass_at_one=mass_at_one,
        boundaries=[end for end in interval if 0.0 < end < 1.0],
        expert=int(interval[0] > 0.0),
    )
    return np.asarray(sigma, np.float64)


def cdf(sigma, shift):
    """P(draw <= sigma): z is normal, sigmoid(z) is shifted by `shift`.

    The shift adds log(shift) to the logit.
    """
    with np.errstate(divide="ignore"):
        return ndtr(logit(sigma) - np.log(shift))


def truncated_cdf(sigma, shift, interval):
    low, high = (cdf(np.asarray(x), shift) for x in interval)
    return (cdf(sigma, shift) - low) / (high - low)


def ks_distance(sample, sample_cdf):
    expected = sample_cdf(np.sort(sample))
    n = len(sample)
    above = np.max(np.arange(1, n + 1) / n - expected)
    below = np.max(expected - np.arange(n) / n)
    return max(above, below)


@pytest.mark.parametrize("shift", MASS)
def test_closed_form_gives_the_mass_table(shift):
    """Checks this file's closed form, on which the other tests rely."""
    mass = np.diff(cdf(np.asarray(BOUNDS), shift))
    np.testing.assert_allclose(mass, MASS[shift], atol=5.1e-5)


@pytest.mark.parametrize("shift", MASS)
def test_draws_have_the_mass_of_the_table(shift):
    sigma = draw(shift, n=2**17)
    share = np.histogram(sigma, BOUNDS)[0] / len(sigma)
    mass = np.array(MASS[shift])
    # Four standard errors, and the table's rounding.
    bound = 4 * np.sqrt(mass * (1 - mass) / len(sigma)) + 5e-5
    assert np.all(np.abs(share - mass) < bound), share


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("interval", [(0.0, 1.0), *INTERVALS, (0.9, 0.9005)])
def test_draws_follow_the_truncated_logit_normal(shift, interval):
    sigma = draw(shift, interval=interval)
    assert sigma.shape == (N,)
    low, high = np.float32(interval)
    assert low <= sigma.min() < sigma.max() < high
    distance = ks_distance(sigma, lambda x: truncated_cdf(x, shift, interval))
    assert distance < KS_BOUND


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_share_at_exactly_one(shift):
    share = 0.2
    sigma = draw(shift, mass_at_one=share)
    at_one = sigma == 1.0
    standard_error = np.sqrt(share * (1 - share) / N)
    assert np.mean(at_one) == pytest.approx(share, abs=4 * standard_error)
    # The others are what they would be without it: nobody is chosen by level.
    rest = sigma[~at_one]
    distance = ks_distance(rest, lambda x: truncated_cdf(x, shift, (0.0, 1.0)))
    assert distance < 1.63 / np.sqrt(len(rest))


def test_share_at_one_belongs_to_the_interval_that_reaches_it():
    noisiest = draw(3.0, mass_at_one=0.5, interval=(0.939, 1.0), n=2**10)
    assert 0.4 < np.mean(noisiest == 1.0) < 0.6
    other = draw(3.0, mass_at_one=0.5, interval=(0.875, 0.939), n=2**10)
    assert other.max() < 0.939


def test_all_or_none_at_one():
    assert np.all(draw(3.0, mass_at_one=1.0, n=2**10) == 1.0)
    assert np.all(draw(3.0, mass_at_one=0.0, n=2**10) < 1.0)


def test_same_key_same_draws():
    np.testing.assert_array_equal(draw(3.0, n=64), draw(3.0, n=64))
    assert not np.any(draw(3.0, n=64) == draw(3.0, n=64, seed=1))


@pytest.mark.parametrize("expert", range(4))
def test_the_expert_may_be_traced(expert):
    def traced(key, expert):
        return sample_sigma(
            key, 64, shift=3.0, mass_at_one=0.2, boundaries=BOUNDS[1:-1], expert=expert
        )

    np.testing.assert_allclose(
        jax.jit(traced)(jax.random.key(0), expert),
        draw(3.0, mass_at_one=0.2, interval=(BOUNDS[expert], BOUNDS[expert + 1]), n=64),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "boundaries", [(-0.1,), (0.0,), (1.1,), (0.5, 0.5), (0.6, 0.5), (float("nan"),)]
)
def test_refuses_bad_boundaries(boundaries):
    with pytest.raises(ValueError, match="expert boundaries must rise"):
        sample_sigma(
            jax.random.key(0), 4, shift=3.0, mass_at_one=0.0, boundaries=boundaries
        )


@pytest.mark.parametrize("mass_at_one", [-0.1, 1.1, float("nan")])
def test_refuses_a_bad_share(mass_at_one):
    with pytest.raises(ValueError, match="mass_at_one"):
        draw(3.0, mass_at_one=mass_at_one, n=1)
