"""`linearsr bench`: text and JSON, experts, what cannot be timed."""

import json

import pytest

from tests.cli.running import run


def test_attention(capsys, monkeypatch):
    from kernels_pallas.linear_attention import bench

    report = {
        "device": "cpu",
        "copy_gb_per_s": 1.0,
        "rows": [{"form": "x", "ms": None}],
    }
    monkeypatch.setattr(bench, "bench", lambda: report)
    code, out, _ = run(capsys, "bench", "attention", "--json")
    assert code == 0
    assert json.loads(out) == report
    assert "form  ms" in run(capsys, "bench", "attention")[1]
    report["rows"].append({"form": "y", "error": "off by 1"})
    code, out, _ = run(capsys, "bench", "attention")
    assert code == 1
    assert out.splitlines()[-1].split(maxsplit=2) == ["y", "-", "off by 1"]


@pytest.mark.parametrize(
    ("part", "option", "parts"),
    [
        ("attention", ("--preset", "nano"), "experts, forward, upscale"),
        ("attention", ("--dtype", "float32"), "forward, upscale"),
        ("experts", ("--size", 512), "forward, upscale"),
        ("forward", ("--steps", 8), "experts, upscale"),
    ],
)
def test_options_of_other_parts(capsys, part, option, parts):
    line = f"linearsr: bench: {option[0]} belongs to {parts}\n"
    assert run(capsys, "bench", part, *option) == (2, "", line)


def test_experts(capsys, monkeypatch):
    from linearsr_jax.benchmarks import experts as module

    monkeypatch.setattr(module, "CPU_SIDE", 8)
    monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(module.bench_lib, "copy_bandwidth", lambda: 1e9)
    code, out, _ = run(
        capsys, "bench", "experts", "--preset", "debug", "--steps", "4", "--json"
    )
    assert code == 0
    rows = {row["what"]: row for row in json.loads(out)["rows"]}
    assert rows["one expert"]["ratio"] == 1.0
    assert rows.keys() >= {"four resident", "four offloaded", "transfer of one"}
    assert all(row["ms"] > 0 for row in rows.values())
    # The debug preset's 131,616 parameters.
    assert rows["transfer of one"]["mb"] == 0.53
    assert run(capsys, "bench", "experts", "--preset", "absent")[0] == 1
    code, _, err = run(capsys, "bench", "experts", "--preset", "600m")
    assert code == 1
    assert "weights of its own" in err
