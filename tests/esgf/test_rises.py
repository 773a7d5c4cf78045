"""Fitting the family of rises: closed forms, noise, correlation."""

import numpy as np

from linearsr_jax.esgf.rises import Family, fit_rises


def ar1(rng, count, phi):
    noise = rng.standard_normal(count)
    for i in range(1, count):
        noise[i] = phi * noise[i - 1] + np.sqrt(1 - phi**2) * noise[i]
    return noise


def test_recovers_an_exponential():
    time = np.arange(60.0)
    fit = fit_rises(Family(time), 5 + 2 * (1 - np.exp(-time / 7)))
    np.testing.assert_allclose(fit.start[fit.best], 5, atol=0.05)
    np.testing.assert_allclose(fit.gain[fit.best], 2, atol=0.05)
    assert np.abs(fit.residuals).max() < 0.05
    assert fit.left[fit.best] < 0.01


def test_progress_rises_from_0_and_stays_below_1_where_it_ends():
    family = Family(np.cumsum([0.0, 1, 5, 0.5, 30, 2]))
    assert np.all(family.progress[:, 0] == 0)
    assert np.all(np.diff(family.progress, axis=1) >= 0)
    assert family.progress[family.ends].max() <= 1
    assert family.progress[~family.ends].max() > 1


def test_misfit_is_the_likelihood_ratio():
    # A straight line and white noise: against no rise at all, n log(RSS0 / RSS).
    rng = np.random.default_rng(0)
    time = np.arange(40.0)
    values = time / 39 + 0.05 * rng.standard_normal(40)
    fit = fit_rises(Family(time), values)
    line = np.polyval(np.polyfit(time, values, 1), time)
    ratio = np.sum((values - values.mean()) ** 2) / np.sum((values - line) ** 2)
    found = fit.flat_misfit * fit.inflation
    np.testing.assert_allclose(found, 40 * np.log(ratio), rtol=0.25)
    assert 0.025 < fit.noise < 0.06  # that of the quieter evaluations


def test_correlated_noise_tells_less():
    rng = np.random.default_rng(0)
    time = np.arange(80.0)
    rise = 1 - 0.05 ** (time / 20)

    def mean_inflation(phi):
        fits = [
            fit_rises(Family(time), rise + 0.03 * ar1(rng, 80, phi)) for _ in range(20)
        ]
        return np.mean([fit.inflation for fit in fits])

    assert mean_inflation(0) < 1.5
    # The long-run variance of AR(0.6) is 1.6 / 0.4 times the variance; five lags and a
    # fit to the same values see about half of it.
    assert 1.8 < mean_inflation(0.6) <= 4
