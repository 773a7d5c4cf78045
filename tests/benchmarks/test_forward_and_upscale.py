"""What `linearsr bench forward` and `upscale` report; their times are not tested."""

import json

import jax
import jax.numpy as jnp
import pytest

from kernels_pallas import bench_lib
from linearsr_jax.benchmarks import forward
from linearsr_jax.cli.main import main
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.presets import get_preset


@pytest.fixture
def one_second(monkeypatch):
    """Each call runs once, and is said to take a second."""

    def run(function, *arrays, **_):
        jax.block_until_ready(function(*arrays))
        return 1.0

    monkeypatch.setattr(bench_lib, "seconds_per_call", run)
    monkeypatch.setattr(bench_lib, "copy_bandwidth", lambda: 1e9)
    monkeypatch.setattr(bench_lib, "matmul_ceiling", lambda dtype: 1e12)


def bench(capsys, *arguments):
    code = main(["bench", *arguments, "--preset", "debug", "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else err


def test_a_network_whose_output_is_not_finite_is_not_timed(one_second, monkeypatch):
    def not_numbers(model):
        params = jax.eval_shape(model.init_params, jax.random.key(0))
        return jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), params)

    monkeypatch.setattr(forward, "random_params", not_numbers)
    ceilings = forward.Ceilings(1.0, 1.0)
    row = next(forward.forward_rows(ceilings, "debug", [16]))
    assert "ms" not in row
    assert row["error"] == "ArithmeticError: the network's output is not finite"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward(one_second, capsys, dtype):
    code, report = bench(capsys, "forward", "--size", "32", "64", "--dtype", dtype)
    assert code == 0
    assert (report["matmul_tflops"], report["copy_gb_per_s"]) == (1.0, 1.0)
    model = get_preset("debug").make_model()
    for size in (32, 64):
        rows = {row["part"]: row for row in report["rows"] if row["size"] == size}
        side = size // 4
        flops = forward_flops(model, (side, side), 16)
        once = flops.pop("condition") / 1e9
        whole = rows.pop("forward")
        assert rows.pop("once an image")["gflop"] == pytest.approx(once, abs=1e-3)
        assert rows.keys() == flops.keys()
        for name, row in rows.items():
            # Rounded to three digits, for each of the blocks.
            assert row["times"] * row["gflop"] == pytest.approx(
                flops[name] / 1e9, abs=2e-3
            )
            assert row["fraction_of_matmul"] == pytest.approx(
                row["gflop"] / 1e3, abs=1e-4
            )
        assert whole["gflop"] == pytest.approx(sum(flops.values()) / 1e9, abs=1e-3)
        # Weights, which attention reads in its products' type, and the tokens.
        item = 4 if dtype == "float32" else 2
        read = 4 * 32 * 32 * item + 6 * 32 * 4 + 32 * 4
        moved = read + 2 * side**2 * 32 * item + 6 * 32 * 4
        assert rows["attention"]["gb"] == pytest.approx(moved / 1e9, abs=1e-4)


def test_upscale(one_second, capsys):
    code, report = bench(capsys, "upscale", "--size", "32", "64", "--steps", "3")
    assert code == 0
    # The same second for four times the pixels.
    assert report["exponent"] == 0.0
    small, large = report["rows"]
    assert (small["size"], large["size"], large["steps"]) == (32, 64, 3)
    flops = forward_flops(get_preset("debug").make_model(), (16, 16), 16)
    once = flops.pop("condition")
    total = once + 3 * sum(flops.values())
    assert large["gflop"] == pytest.approx(total / 1e9, abs=1e-3)
    assert large["peak_mb"] > small["peak_mb"] > 0
    assert bench(capsys, "upscale", "--size", "32")[1]["exponent"] is None


def test_sizes_that_do_not_fit(one_second, capsys):
    code, err = bench(capsys, "forward", "--size", "30")
    assert code == 1
    assert "size 30 must be a positive multiple of 4" in err
