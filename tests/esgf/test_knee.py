"""Finding the knee: known knees, invariances, being online, missing values."""

import numpy as np
import pytest

from linearsr_jax.esgf import stability, tracker
from linearsr_jax.esgf.knee import find_knee
from linearsr_jax.esgf.params import KneeParams


def exponential(count=60, knee_index=15, noise=0.01, seed=0):
    """Steps of 1000 and a rise by 3 from 20, 95 % of it at knee_index."""
    time = np.arange(count)
    values = 1 - 0.05 ** (time / knee_index)
    values += noise * np.random.default_rng(seed).standard_normal(count)
    return 1000 * (time + 1), 20 + 3 * values


def judge(steps, values, higher=True):
    return find_knee(steps, {"psnr": values}, {"psnr": higher})


@pytest.mark.parametrize("knee_index", [6, 12, 25])
@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02])
def test_exponential(knee_index, noise):
    # 1 - 0.05 ** (t / k) is within 5 % of its level from t = k.
    steps, values = exponential(60, knee_index, noise)
    verdict = judge(steps, values)
    assert verdict.verdict == "plateau"
    # The curve gains 0.05 * ln(20) / k of its rise per evaluation there: noise of 2 %
    # hides several evaluations.
    assert abs(verdict.knee_step // 1000 - 1 - knee_index) <= 2 + 100 * noise
    assert verdict.knee_step < verdict.decided_at_step <= steps[-1]
    evidence = verdict.metrics["psnr"]
    assert evidence.vote == "plateau"
    np.testing.assert_allclose(evidence.level, 23, atol=0.1)
    np.testing.assert_allclose(evidence.rise, 3, atol=0.2)
    assert evidence.noise == pytest.approx(3 * noise, rel=0.6, abs=0.02)


def test_kink():
    time = np.arange(50)
    verdict = judge(time, np.minimum(time / 20, 1))
    assert verdict.knee_step in (19, 20)  # 0.95 of the rise is at 19
    assert verdict.decided_at_step <= 30


def test_paper_shape():
    # Knee at 48k of 224k, evaluated every 4k, swings that grow from 72k on.
    steps = 4000 * np.arange(1, 57)
    rng = np.random.default_rng(0)
    rise = 1 - 0.05 ** ((steps - 4000) / 44000)
    swings = 0.3 * np.clip((steps - 72000) / 152000, 0, None)
    values = 46 + 14 * (
        rise + 0.01 * rng.standard_normal(56) + swings * np.sin(steps / 4000 * 2.1)
    )
    verdict = judge(steps, values)
    assert verdict.verdict == "oscillating"
    assert abs(verdict.knee_step - 48000) <= 4000
    assert verdict.decided_at_step <= 100000
    assert 72000 <= verdict.since_step <= 120000
    assert verdict.metrics["psnr"].oscillation_ratio > 5
    # The unstable peak is not what it names.
    assert steps[np.argmax(values)] > 150000


@pytest.mark.parametrize("rise", ["linear", "sqrt", "log", "quarter"])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_rise_without_end_has_no_knee(rise, noise):
    time = np.arange(80) / 79
    shape = {
        "linear": time,
        "sqrt": np.sqrt(time),
        "log": np.log1p(50 * time) / np.log(51),
        "quarter": 1 - np.exp(-1.4 * time),
    }[rise]
    values = shape + noise * np.random.default_rng(1).standard_normal(80)
    verdict = judge(np.arange(80), values)
    assert (verdict.verdict, verdict.knee_step) == ("none", None)
    assert verdict.metrics["psnr"].vote == "rising"


def test_noise_alone_has_no_knee():
    for seed in range(10):
        noise = np.random.default_rng(seed).standard_normal(50)
        verdict = judge(np.arange(50), noise)
        assert verdict.verdict == "none"
        assert verdict.metrics["psnr"].vote == "abstains"
    assert judge(np.arange(50), np.full(50, 3.0)).verdict == "none"


def test_second_plateau_withdraws_the_first():
    time = np.arange(80)
    first, second = np.minimum(time / 10, 1), np.clip((time - 40) / 10, 0, 1)
    values = first + 0.5 * second
    values += 0.01 * np.random.default_rng(0).standard_normal(80)
    assert judge(time[:35], values[:35]).knee_step in (9, 10)
    assert judge(time[:47], values[:47]).knee_step is None
    verdict = judge(time, values)
    assert abs(verdict.knee_step - 49) <= 1
    assert verdict.decided_at_step > 49
    # The rise is the whole one.
    np.testing.assert_allclose(verdict.metrics["psnr"].rise, 1.5, atol=0.1)


@pytest.mark.parametrize("period", [2, 3.3, 6, 8])
@pytest.mark.parametrize("phase", [0.7, 2.2, 3.7, 5.2])
def test_sudden_swings_are_no_second_rise(period, phase):
    steps, values = exponential(count=60, noise=0.005)
    expected = judge(steps[:30], values[:30]).knee_step
    values[30:] += 0.6 * np.sin(2 * np.pi * np.arange(30) / period + phase)
    verdict = judge(steps, values)
    assert (verdict.verdict, verdict.knee_step) == ("oscillating", expected)


def test_a_steep_beginning_counts():
    # Most of the rise is in the first interval; it is no spike.
    rng = np.random.default_rng(0)
    values = 1 - 0.2 ** np.arange(40) + 0.02 * rng.standard_normal(40)
    evidence = judge(np.arange(40), values).metrics["psnr"]
    np.testing.assert_allclose(evidence.rise, 1, atol=0.1)


def test_units_do_not_matter():
    steps, values = exponential(noise=0.03)
    expected = judge(steps, values)
    for scale, offset in ((1000, -7), (1e-6, 0), (1, 1e3)):
        other = judge(steps, scale * values + offset)
        assert other.knee_step == expected.knee_step
        assert other.decided_at_step == expected.decided_at_step
    flipped = judge(steps, 5 - values, higher=False)
    assert flipped.knee_step == expected.knee_step
    np.testing.assert_allclose(
        flipped.metrics["psnr"].level, 5 - expected.metrics["psnr"].level
    )
    stretched = judge(8 * steps, values)
    assert stretched.knee_step == 8 * expected.knee_step


def test_the_wrong_direction_finds_nothing():
    steps, values = exponential()
    assert judge(steps, values, higher=False).knee_step is None


def test_order_of_metrics_does_not_matter():
    curves = {str(i): exponential(knee_index=12 + i, seed=i)[1] for i in range(3)}
    steps = exponential()[0]
    higher = dict.fromkeys(curves, True)
    forward = find_knee(steps, curves, higher)
    backward = find_knee(steps, dict(reversed(curves.items())), higher)
    assert forward == backward


def test_is_online():
    """After n evaluations it says what the first n say, whatever follows."""
    steps, values = exponential(count=50, noise=0.03)
    whole = judge(steps, values)
    states = list(tracker.track(steps.astype(float), values))
    for n in range(1, 51):
        part = list(tracker.track(steps[:n].astype(float), values[:n]))
        assert part[-1].plateau == states[n - 1].plateau
    row = list(steps).index(whole.decided_at_step)
    assert judge(steps[: row + 1], values[: row + 1]).knee_step == whole.knee_step
    assert judge(steps[:row], values[:row]).knee_step != whole.knee_step


def test_missing_values_and_spikes():
    steps, values = exponential(count=60, knee_index=15)
    expected = judge(steps, values).knee_step
    holes = values.copy()
    holes[3::7] = np.nan
    assert abs(judge(steps, holes).knee_step - expected) <= 2000
    spiky = values.copy()
    spiky[[4, 20, 33]] += [-2, -3, 3]
    verdict = judge(steps, spiky)
    assert verdict.verdict == "plateau"
    assert abs(verdict.knee_step - expected) <= 2000


def test_collapse_and_not_a_number():
    steps, values = exponential(count=50)
    expected = judge(steps, values).knee_step
    fallen = values.copy()
    fallen[40:] = 18
    verdict = judge(steps, fallen)
    assert (verdict.verdict, verdict.knee_step) == ("diverged", expected)
    assert verdict.since_step == steps[40]
    fallen[40:] = np.nan
    verdict = judge(steps, fallen)
    assert (verdict.verdict, verdict.knee_step) == ("diverged", expected)
    assert verdict.since_step == steps[40]
    fallen[40:48] = values[40:48]  # the last two alone are no divergence
    assert judge(steps, fallen).verdict == "plateau"
    assert judge(steps, np.full(50, np.nan)).verdict == "diverged"


def test_vote():
    steps, rises = exponential(count=60, knee_index=10)
    still_rising = steps / 1000 + np.random.default_rng(3).standard_normal(60)
    flat = np.random.default_rng(4).standard_normal(60)

    def vote(**metrics):
        return find_knee(steps, metrics, dict.fromkeys(metrics, True))

    assert vote(a=rises, b=flat).knee_step == vote(a=rises).knee_step
    assert vote(a=rises, b=flat).metrics["b"].vote == "abstains"
    assert vote(a=rises, b=still_rising).verdict == "none"
    later = exponential(count=60, knee_index=20)[1]
    both = vote(a=rises, b=later, c=still_rising)
    # Of two knees the later one: by then both metrics are on their plateaus.
    assert both.knee_step == vote(b=later).knee_step


@pytest.mark.parametrize("huge", [1e99, 1e300])
def test_huge_values(huge):
    steps, values = exponential()
    assert judge(steps, huge * values).verdict in ("plateau", "diverged")
    values[20] = huge
    assert judge(steps, values).verdict == "plateau"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_too_short(count):
    steps, values = exponential(count=max(count, 1), knee_index=1)
    verdict = judge(steps[:count], values[:count])
    assert (verdict.verdict, verdict.knee_step) == ("none", None)
    noun = "evaluation" if count == 1 else "evaluations"
    assert f"only {count} {noun};" in verdict.reason


def test_no_metrics():
    assert find_knee(np.arange(5), {}, {}).verdict == "none"


def test_rejects_what_is_no_curve():
    with pytest.raises(ValueError, match="rise strictly"):
        judge(np.array([1, 1, 2]), np.zeros(3))
    with pytest.raises(ValueError, match="2 values for 3 steps"):
        judge(np.arange(3), np.zeros(2))


def test_long_curves_are_averaged():
    count = 40 * KneeParams().max_evaluations
    time = np.arange(count)
    values = 1 - 0.05 ** (5 * time / count)
    values += 0.1 * np.random.default_rng(0).standard_normal(count)
    verdict = judge(time, values)
    assert abs(verdict.knee_step / count - 0.2) < 0.02


def test_oscillation_ratio_of_known_swings():
    plateau = tracker.Plateau(
        knee=0, decided=9, level=1.0, rise=1.0, noise=0.02, inflation=1.0
    )
    rng = np.random.default_rng(0)
    values = 1 + 0.02 * rng.standard_normal(60)
    calm = stability.measure_oscillation(values, plateau)
    assert calm.since is None
    values[30:] += 0.2 * (-1.0) ** np.arange(30)
    found = stability.measure_oscillation(values, plateau)
    # Of a swing between -0.2 and 0.2 the median deviation is 0.2, 1.48 times a
    # normal's.
    assert found.ratio == pytest.approx(1.4826 * 0.2 / 0.02, rel=0.25)
    assert 24 <= found.since <= 32
