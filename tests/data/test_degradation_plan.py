"""What is drawn, against the field's table: frequencies by chi-square, ranges by KS.

The table is typed in here again, so that a slip in the parameters shows.
"""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from linearsr_jax.data import blur_kernels, degradation_plan
from linearsr_jax.data.degradation_params import (
    DEGRADATIONS,
    LIGHT,
    STANDARD,
    get_degradation,
)
from linearsr_jax.data.degradation_plan import RESIZE_MODES

DRAWS = 8000
# Chance that a right test fails; there are about a hundred of them, with fixed seeds.
P_VALUE = 1e-4

TABLE = {
    "light": {
        "sigma": ((0.2, 1.5), (0.2, 1.0)),
        "beta": {"generalized": (0.5, 2.0), "plateau": (1.0, 1.5)},
        "resize": ((0.3, 1.5), (0.6, 1.2)),
        "gaussian": ((1, 15), (1, 12)),
        "poisson": ((0.05, 2.0), (0.05, 1.0)),
        "quality": ((60, 95), (60, 100)),
        "second_blur": 0.5,
        "bicubic": 0.01,
    },
    "standard": {
        "sigma": ((0.2, 3.0), (0.2, 1.5)),
        "beta": {"generalized": (0.5, 4.0), "plateau": (1.0, 2.0)},
        "resize": ((0.15, 1.5), (0.3, 1.2)),
        "gaussian": ((1, 30), (1, 25)),
        "poisson": ((0.05, 3.0), (0.05, 2.5)),
        "quality": ((30, 95), (30, 95)),
        "second_blur": 0.8,
        "bicubic": 0.0,
    },
}


@pytest.fixture(scope="module", params=sorted(TABLE))
def drawn(request):
    """(plans, their row of the table)."""
    rng = np.random.default_rng(1)
    params = DEGRADATIONS[request.param]
    plans = [degradation_plan.draw_plan(params, rng) for _ in range(DRAWS)]
    return plans, TABLE[request.param]


def assert_frequencies(counts, probabilities):
    expected = np.sum(counts) * np.array(probabilities)
    assert scipy.stats.chisquare(counts, expected).pvalue > P_VALUE, counts


def assert_share(values, probability):
    test = scipy.stats.binomtest(int(np.sum(values)), len(values), probability)
    assert test.pvalue > P_VALUE, (np.mean(values), probability)


def assert_uniform(values, low, high):
    values = np.asarray(values)
    assert low <= values.min()
    assert values.max() <= high
    test = scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf)
    assert test.pvalue > P_VALUE


def rounds(plans, number):
    return [(p.first, p.second)[number] for p in plans]


def kernels(plans, number):
    found = [r.kernel for r in rounds(plans, number)]
    return [k for k in found if k is not None]


def test_names_are_the_ones_of_the_field():
    assert DEGRADATIONS.keys() == {"bicubic", "camera", *TABLE}
    assert get_degradation("light") is LIGHT
    assert get_degradation("standard") is STANDARD
    with pytest.raises(
        ValueError, match="'heavy'; use one of bicubic, light, standard, camera"
    ):
        get_degradation("heavy")


@pytest.mark.parametrize("number", [0, 1])
def test_kernel_families(drawn, number):
    plans, _ = drawn
    found = kernels(plans, number)
    names = ["sinc", *(f"{s} {i}" for s, i in blur_kernels.FAMILIES)]
    counts = dict.fromkeys(names, 0)
    for k in found:
        is_round = k.sigma_x == k.sigma_y
        counts["sinc" if k.shape == "sinc" else f"{k.shape} {is_round}"] += 1
    bells = 0.9 * np.array([0.45, 0.25, 0.12, 0.03, 0.12, 0.03])
    assert_frequencies(list(counts.values()), [0.1, *bells])


@pytest.mark.parametrize("number", [0, 1])
def test_kernel_sizes(drawn, number):
    plans, _ = drawn
    sizes = [k.size for k in kernels(plans, number)]
    counts = [sizes.count(size) for size in range(7, 22, 2)]
    assert sum(counts) == len(sizes)
    assert_frequencies(counts, [1 / 8] * 8)


@pytest.mark.parametrize("number", [0, 1])
def test_bell_parameters(drawn, number):
    plans, table = drawn
    bells = [k for k in kernels(plans, number) if k.shape != "sinc"]
    oriented = [k for k in bells if k.sigma_x != k.sigma_y]
    assert_uniform([k.sigma_x for k in bells], *table["sigma"][number])
    assert_uniform([k.sigma_y for k in oriented], *table["sigma"][number])
    assert_uniform([k.rotation for k in oriented], -np.pi, np.pi)
    assert {k.rotation for k in bells if k.sigma_x == k.sigma_y} == {0.0}
    for shape, (low, high) in table["beta"].items():
        betas = np.array([k.beta for k in bells if k.shape == shape])
        assert_share(betas > 1, 0.5)
        assert_uniform(betas[betas > 1], 1, high)
        if low < 1:
            assert_uniform(betas[betas < 1], low, 1)
        else:
            assert (betas[betas <= 1] == 1).all()


@pytest.mark.parametrize("number", [0, 1])
def test_sinc_cutoffs(drawn, number):
    plans, _ = drawn
    sincs = [k for k in kernels(plans, number) if k.shape == "sinc"]
    assert_uniform([k.cutoff for k in sincs if k.size < 13], np.pi / 3, np.pi)
    assert_uniform([k.cutoff for k in sincs if k.size >= 13], np.pi / 5, np.pi)
    for size in range(7, 22, 2):
        lowest = min(k.cutoff for k in sincs if k.size == size)
        assert (lowest < np.pi / 3) == (size >= 13)


def test_final_sinc(drawn):
    plans, _ = drawn
    found = [p.last.kernel for p in plans]
    assert_share([k is not None for k in found], 0.8)
    sincs = [k for k in found if k is not None]
    assert {k.shape for k in sincs} == {"sinc"}
    assert_uniform([k.cutoff for k in sincs], np.pi / 3, np.pi)
    sizes = [k.size for k in sincs]
    assert_frequencies([sizes.count(s) for s in range(7, 22, 2)], [1 / 8] * 8)


def test_second_blur(drawn):
    plans, table = drawn
    assert all(p.first.kernel is not None for p in plans)
    assert_share([p.second.kernel is not None for p in plans], table["second_blur"])


@pytest.mark.parametrize(("number", "up_down_keep"), [(0, (2, 7, 1)), (1, (3, 4, 3))])
def test_resize(drawn, number, up_down_keep):
    plans, table = drawn
    scales = np.array([r.scale for r in rounds(plans, number)])
    counts = [(scales > 1).sum(), (scales < 1).sum(), (scales == 1).sum()]
    assert_frequencies(counts, np.array(up_down_keep) / 10)
    low, high = table["resize"][number]
    assert_uniform(scales[scales > 1], 1, high)
    assert_uniform(scales[scales < 1], low, 1)


def test_resize_modes(drawn):
    plans, _ = drawn
    for modes in (
        [p.first.mode for p in plans],
        [p.second.mode for p in plans],
        [p.last.mode for p in plans],
    ):
        assert_frequencies([modes.count(m) for m in RESIZE_MODES], [1 / 3] * 3)


@pytest.mark.parametrize("number", [0, 1])
def test_noise(drawn, number):
    plans, table = drawn
    noises = [r.noise for r in rounds(plans, number)]
    assert_share([n.is_gaussian for n in noises], 0.5)
    for kind in ("gaussian", "poisson"):
        some = [n for n in noises if n.is_gaussian == (kind == "gaussian")]
        assert_share([n.is_gray for n in some], 0.4)
        assert_uniform([n.level for n in some], *table[kind][number])


def test_jpeg_qualities_are_uniform_integers(drawn):
    plans, table = drawn
    assert all(p.first.quality is None for p in plans)
    drawn_qualities = (
        [p.second.quality for p in plans],
        [p.last.quality for p in plans],
    )
    for qualities, (low, high) in zip(drawn_qualities, table["quality"], strict=True):
        counts = [qualities.count(q) for q in range(low, high + 1)]
        assert sum(counts) == len(qualities)
        assert_frequencies(counts, [1 / len(counts)] * len(counts))


def test_last_order_and_bicubic_share(drawn):
    plans, table = drawn
    assert_share([p.last.is_jpeg_last for p in plans], 0.5)
    assert_share([p.is_bicubic for p in plans], table["bicubic"])


def test_draws_of_a_plan_are_independent(drawn):
    plans, _ = drawn
    columns = np.array(
        [
            [
                p.first.kernel.size,
                p.first.scale,
                p.first.noise.is_gaussian,
                p.second.quality,
                p.second.kernel is None,
                p.second.scale,
                p.second.noise.is_gray,
                p.last.quality,
                p.last.is_jpeg_last,
                p.noise_seed,
            ]
            for p in plans
        ],
        float,
    )
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("params", [LIGHT, STANDARD])
def test_plan_is_a_function_of_the_generator(params):
    plans = [
        degradation_plan.draw_plan(params, np.random.default_rng([7, n]))
        for n in (0, 1, 0)
    ]
    assert plans[0] == plans[2] != plans[1]


def test_pack_keeps_every_parameter():
    rng = np.random.default_rng(0)
    plan = degradation_plan.draw_plan(LIGHT, rng)
    while plan.second.kernel is not None:
        plan = degradation_plan.draw_plan(LIGHT, rng)
    packed = degradation_plan.pack(plan, (96, 64), 4)
    assert packed["kernels"].shape == (3, 21, 21)
    side = plan.first.kernel.size
    edge = (21 - side) // 2
    inner = packed["kernels"][0, edge : edge + side, edge : edge + side]
    np.testing.assert_array_equal(inner, plan.first.kernel.render())
    identity = np.zeros((21, 21))
    identity[10, 10] = 1
    np.testing.assert_array_equal(packed["kernels"][1], identity)
    np.testing.assert_allclose(packed["kernels"].sum((1, 2)), 1, rtol=1e-5)
    first, second = plan.first.scale, plan.second.scale
    expected = [
        [int(96 * first), int(64 * first)],
        [int(24 * second), int(16 * second)],
    ]
    np.testing.assert_array_equal(packed["sizes"], expected)
    np.testing.assert_allclose(packed["steps"][0], 1 / first, rtol=1e-6)
    np.testing.assert_allclose(packed["steps"][1], np.divide(*expected), rtol=1e-6)
    np.testing.assert_allclose(packed["steps"][2], np.divide(expected[1], (24, 16)))
    modes = [RESIZE_MODES[m] for m in packed["modes"]]
    assert modes == [plan.first.mode, plan.second.mode, plan.last.mode]
    assert packed["qualities"].tolist() == [plan.second.quality, plan.last.quality]
    noises = (plan.first.noise, plan.second.noise)
    assert packed["is_gaussian"].tolist() == [n.is_gaussian for n in noises]
    assert packed["is_gray"].tolist() == [n.is_gray for n in noises]
    np.testing.assert_allclose(packed["noise_levels"], [n.level for n in noises])
    assert packed["is_jpeg_last"] == plan.last.is_jpeg_last
    assert packed["is_bicubic"] == plan.is_bicubic
    assert packed["noise_seed"] == plan.noise_seed


def test_pack_leaves_the_grid_alone_where_the_size_is_kept():
    plan = degradation_plan.draw_plan(LIGHT, np.random.default_rng(0))
    kept = dataclasses.replace(plan.first, scale=1.005)
    packed = degradation_plan.pack(dataclasses.replace(plan, first=kept), (96, 96), 4)
    np.testing.assert_array_equal(packed["sizes"][0], [96, 96])
    np.testing.assert_array_equal(packed["steps"][0], 1)


def test_sizes_never_vanish():
    assert degradation_plan.scaled_size((4, 2), 0.15) == (1, 1)
