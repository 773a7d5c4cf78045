"""The benchmark: its oracle, its report, and that it refuses wrong forms."""

import json

import jax
import numpy as np

from kernels_pallas import bench_lib
from kernels_pallas.glu_depthwise_conv import bench, reference
from kernels_pallas.testing import assert_close
from tests.kernels_pallas import glu_oracle


def test_report(monkeypatch):
    monkeypatch.setattr(bench, "CPU_CASES", [(8, 4)])
    monkeypatch.setattr(bench_lib, "copy_bandwidth", lambda: 1e9)
    seconds = iter(1e-6 * n for n in range(1, 7))
    monkeypatch.setattr(
        bench_lib, "seconds_per_call", lambda function, *arrays: next(seconds)
    )
    report = json.loads(json.dumps(bench.bench()))
    assert [(r["form"], r["pass"]) for r in report["rows"]] == [
        (form, name)
        for form in ("cpu", "shifted", "grouped")
        for name in ("forward", "forward and gradient")
    ]
    for row in report["rows"]:
        assert 0 <= row["max_error"] <= 2e-5
    # 4 x 4 pixels of 8 float32 channels; x is two of them, so is its gradient.
    image = 4 * 4 * 8 * 4
    assert report["rows"][0]["ms"] == 0.001
    assert report["rows"][0]["gb_per_s"] == round(3 * image / 1e3, 2)
    assert report["rows"][1]["gb_per_s"] == round(8 * image / 2e3, 2)


def test_its_oracle_equals_the_loops():
    arrays = bench.make_inputs(3, 4, 5)
    exact = bench._float64(*(np.asarray(a, np.float64) for a in arrays))
    x, kernel, bias, input_bias, cotangent = arrays
    biased = np.float64(x) + input_bias
    assert_close(exact[0], glu_oracle.glu(biased, kernel, bias), 1e-13)
    expected = glu_oracle.glu_gradients(biased, kernel, bias, cotangent)
    expected = *expected, expected[0].sum(axis=(0, 1, 2))
    for actual, gradient in zip(exact[1:], expected, strict=True):
        assert_close(actual, gradient, 1e-13)


def test_the_check_compares_some_channels_of_all_results(monkeypatch):
    monkeypatch.setattr(bench, "COMPARED", 3 * 4 * 3)
    bench.make_case.cache_clear()
    case = bench.make_case("float32", 10, 3, 4)
    bench.make_case.cache_clear()
    assert case.compared.tolist() == [0, 4, 9]
    both = [0, 4, 9, 10, 14, 19]
    x, kernel, bias, input_bias, cotangent = case.arrays
    x = np.float64(x) + input_bias
    out, *gradients = case.exact
    assert_close(out, glu_oracle.glu(x, kernel, bias)[..., case.compared], 1e-6)
    expected = glu_oracle.glu_gradients(x, kernel, bias, cotangent)
    expected = *expected, expected[0].sum(axis=(0, 1, 2))
    for actual, gradient in zip(gradients, expected, strict=True):
        assert_close(actual, gradient[..., both], 1e-6)
        np.testing.assert_array_equal(case.part(gradient), gradient[..., both])


def test_a_wrong_form_is_not_timed(monkeypatch):
    def wrong(x, kernel):
        return 1.001 * jax.numpy.asarray(convolve(x, kernel))

    convolve = reference.depthwise_conv_grouped
    monkeypatch.setattr(reference, "depthwise_conv_grouped", wrong)
    monkeypatch.setattr(bench, "CPU_CASES", [(8, 4)])
    monkeypatch.setattr(bench_lib, "copy_bandwidth", lambda: 1e9)
    monkeypatch.setattr(bench_lib, "seconds_per_call", lambda *_: 1.0)
    rows = bench.bench()["rows"]
    # The others are not lost.
    assert [("ms" in row) for row in rows] == [True] * 4 + [False] * 2
    assert "'grouped', forward: off by" in rows[4]["error"]
