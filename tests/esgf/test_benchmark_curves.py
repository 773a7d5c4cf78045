"""The simulated curves of experiments/202611_knee: their truth is what they say."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "experiments/202611_knee/curves.py"


@pytest.fixture(scope="module")
def curves():
    spec = importlib.util.spec_from_file_location("knee_curves", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_there_are_enough_and_they_are_reproducible(curves):
    first, again, other = (list(curves.generate(seed)) for seed in (0, 0, 1))
    assert len(first) >= 1000
    assert {curve.family for curve in first} == set(curves.FAMILIES)
    for a, b in zip(first, again, strict=True):
        assert a.kind == b.kind
        for name in a.metrics:
            np.testing.assert_array_equal(a.metrics[name], b.metrics[name])
    assert sum(a.kind == b.kind for a, b in zip(first, other, strict=True)) < 20


def test_curves_are_well_formed(curves):
    for curve in curves.generate(0):
        assert np.all(np.diff(curve.steps) > 0)
        assert curve.knee is None or curve.knee in curve.steps
        assert (curve.knee is None) == (curve.family in ("flat", "never"))
        for values in curve.metrics.values():
            assert len(values) == len(curve.steps)


def test_truth_of_closed_forms(curves):
    steps = np.arange(0, 101)
    # A straight line to 1 at step 40 is within 5 % from step 38.
    assert curves.true_knee(steps, np.minimum(steps / 40, 1)) == 38
    # exp(-x / 10) = 0.05 at x = 29.96.
    assert curves.true_knee(steps, 1 - np.exp(-steps / 10)) == 30
    # Two plateaus: only the last counts.
    assert curves.true_knee(steps, np.where(steps < 70, 0.9, 1) * (steps > 5)) == 70
    # The rise is measured from the first evaluation: 0.8 to 1, tolerance 0.01.
    late = 1 - np.exp(-steps / 10)
    assert curves.true_knee(steps[16:], late[16:]) == 46
    assert curves.true_knee(steps, steps / 100, level=None) is None


@pytest.mark.parametrize("rise", ["exponential", "kinked", "power_law", "logistic"])
def test_rises_reach_95_percent_at_the_knee(curves, rise):
    shape = getattr(curves, rise)(np.random.default_rng(0))
    x = np.linspace(0, 50, 5001)
    np.testing.assert_allclose(shape(x[[0, 100]]), [0, 0.95], atol=2e-3)
    assert np.all(np.diff(shape(x)) >= 0)
    np.testing.assert_allclose(shape(x[-1:]), 1, atol=3e-3)


def test_noise_has_unit_variance(curves):
    rng = np.random.default_rng(0)
    for noise in (curves.white, curves.ar1):
        np.testing.assert_allclose(np.std(noise(rng, 100_000)), 1, rtol=0.03)


def test_paper_shape(curves):
    papers = [curve for curve in curves.generate(0) if curve.family == "paper"]
    assert {curve.knee for curve in papers} == {48000}
    assert {curve.steps[-1] for curve in papers} == {224000}
    assert {tuple(curve.metrics) for curve in papers} == {
        ("psnr",),
        ("musiq",),
        ("psnr", "musiq"),
    }
