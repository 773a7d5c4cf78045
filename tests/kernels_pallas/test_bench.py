"""The benchmarks say what they measured; how fast it was is not tested."""

import functools
import sys
import types

import jax
import numpy as np
import pytest

from kernels_pallas import bench_lib, linear_attention_qkv
from kernels_pallas.linear_attention import bench
from tests.kernels_pallas.naive_attention import naive, naive_gradients


@pytest.fixture
def _short(monkeypatch):
    monkeypatch.setattr(bench, "CPU_CASES", [(2, 40), (1, 70)])
    monkeypatch.setattr(bench_lib, "copy_bandwidth", lambda: 1e10)
    seconds_per_call = bench_lib.seconds_per_call

    def one_call(function, *arrays):
        return seconds_per_call(function, *arrays, at_least=0, repeats=1)

    monkeypatch.setattr(bench_lib, "seconds_per_call", one_call)


@pytest.mark.usefixtures("_short")
def test_linear_attention_report():
    report = bench.bench()
    assert "cpu" in report["device"]
    cases = [(r["heads"], r["tokens"], r["pass"]) for r in report["rows"]]
    passes = ("forward", "forward and gradient")
    assert cases == [(*c, p) for c in ((2, 40), (1, 70)) for p in passes]
    for row in report["rows"]:
        assert 0 < row["max_error"] < 1e-5
        moved = bench.ARRAYS[row["pass"]] * row["heads"] * row["tokens"] * 32 * 4
        assert row["gb_per_s"] == pytest.approx(
            moved / row["ms"] / 1e6, rel=0.1, abs=0.02
        )
        assert row["fraction_of_copy"] == pytest.approx(row["gb_per_s"] / 10, abs=0.01)
    lines = bench_lib.format_report(report).splitlines()
    assert len(lines) == 2 + len(cases)


@pytest.mark.usefixtures("_short")
def test_a_wrong_form_is_not_timed(monkeypatch):
    def values(qkv, heads, **_):
        return qkv[..., 2 * heads * 32 :].reshape(*qkv.shape[:2], heads, 32)

    monkeypatch.setattr(bench, "linear_attention_qkv", values)
    rows = bench.bench()["rows"]
    assert len(rows) == 4
    for row in rows:
        assert "ms" not in row
        assert f"'reference', {row['pass']}: off by" in row["error"]


def test_the_check_computes_all_heads_and_compares_some(monkeypatch):
    monkeypatch.setattr(bench, "COMPARED", 2 * 40)
    bench.make_case.cache_clear()
    key, shapes = ("reference", "forward"), []

    def off_in_the_last_head(factor):
        def forward(qkv, grad):
            out = linear_attention_qkv(qkv, 5)
            shapes.append(out.shape)
            return out.at[:, :, -1].multiply(factor)

        return {key: forward}

    bench.max_error("float32", off_in_the_last_head(1), key, 5, 40)
    with pytest.raises(ArithmeticError, match="'reference', forward: off by"):
        bench.max_error("float32", off_in_the_last_head(1.01), key, 5, 40)
    assert shapes == [(1, 40, 5, 32)] * 2
    bench.make_case.cache_clear()


def test_what_rounding_hides_is_seen(monkeypatch):
    exact = np.array([1.0, 0.004])
    # A part in 1,000 of the largest value: less than that one's own rounding.
    off = exact + np.array([0, 0.001])

    def check(values, **bound):
        function = functools.partial(jax.numpy.asarray, dtype=jax.numpy.bfloat16)
        return bench_lib.max_error("x", function, [values], [exact], 1e-2, **bound)

    assert check(exact, beyond_rounding=1e-6) == pytest.approx(0, abs=2**-9)
    assert check(off) == pytest.approx(0.001, rel=0.1)
    with pytest.raises(ArithmeticError, match="beyond one rounding"):
        check(off, beyond_rounding=2**-12)


def test_a_gpus_own_profiler_is_asked(monkeypatch):
    x = jax.numpy.ones(3)
    assert bench_lib.profiled(jax.numpy.negative, x) == {}
    profiler = types.ModuleType("profiler")
    profiler.measure = lambda f, iterations: lambda *x: (f(*x), [0.5, 0.25, 1.0])
    monkeypatch.setattr(bench_lib.jax, "default_backend", lambda: "gpu")
    monkeypatch.setitem(
        sys.modules,
        "jax.experimental.mosaic.gpu",
        types.SimpleNamespace(profiler=profiler),
    )
    assert bench_lib.profiled(jax.numpy.negative, x) == {"device_ms": 0.25}
    profiler.measure = lambda f, iterations: lambda *x: (f(*x), None)
    assert "no kernel" in bench_lib.profiled(abs, x)["device_ms_error"]
    del profiler.measure
    assert "AttributeError" in bench_lib.profiled(abs, x)["device_ms_error"]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_the_check_sees_a_wrong_gradient(part):
    key = ("reference", "forward and gradient")
    both = bench.forms()[key]

    def off(qkv, grad):
        out, (gradient,) = both(qkv, grad)
        first = part * gradient.shape[-1] // 3
        return out, (gradient.at[0, 7, first : first + 32].multiply(1.5),)

    bench.max_error("float32", {key: both}, key, 5, 40)
    with pytest.raises(ArithmeticError, match="off by"):
        bench.max_error("float32", {key: off}, key, 5, 40)
    bench.make_case.cache_clear()


def test_the_correctness_check_is_the_naive_form():
    arrays = bench.make_inputs(3, 20)
    exact = bench._float64(*(np.asarray(x, np.float64) for x in arrays))
    expected = naive(*arrays[:3]), *naive_gradients(*arrays)
    for one, other in zip(exact, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
