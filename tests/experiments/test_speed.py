"""The script for the first accelerator, rehearsed on the CPU at small sizes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import bench_lib
from kernels_pallas.glu_depthwise_conv import gpu as glu_gpu
from kernels_pallas.linear_attention import gpu as attention_gpu

FOLDER = Path(__file__).parents[2] / "experiments" / "202611_speed"
# Not on the machines that are lent by the minute.
ABSENT = ("clu", "grain", "ml_collections", "tensorboardX", "tensorflow_datasets")


@pytest.fixture
def lease(monkeypatch):
    monkeypatch.setenv("LEASE_SHORT", "1")
    spec = importlib.util.spec_from_file_location("lease", FOLDER / "lease.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_failed_job_is_recorded_and_done_again(lease, tmp_path, monkeypatch):
    path = tmp_path / "fake.jsonl"
    calls = []

    def stage():
        def fail():
            calls.append("fails")
            raise ArithmeticError("off by 1\nsecond line")

        def work():
            calls.append("works")
            return [{"ms": 1.0}]

        yield "fails", fail
        yield "works", work

    monkeypatch.setitem(lease.STAGES, "fake", stage)
    assert lease.main("fake", path) == 1
    failed, worked = rows_of(path)
    assert failed["error"] == "ArithmeticError: off by 1"
    assert worked["rows"] == [{"ms": 1.0}]
    assert lease.main("fake", path) == 1
    assert calls == ["fails", "works", "fails"]
    assert [row["job"] for row in rows_of(path)] == ["fails", "works", "fails"]


def test_every_job_has_a_name_of_its_own(lease, monkeypatch):
    monkeypatch.setattr(lease, "SHORT", False)
    monkeypatch.setattr(lease, "PRESET", "1600m")
    monkeypatch.setattr(lease, "SMALLER", "600m")
    monkeypatch.setattr(lease, "SIDE", 1024)
    for name, stage in lease.STAGES.items():
        jobs = [job for job, _ in stage()]
        assert len(set(jobs)) == len(jobs), name
    monkeypatch.setattr(lease.importlib.util, "find_spec", lambda name: None)
    assert [job for job, _ in lease.diffusers()] == ["1600m diffusers, absent"]
    monkeypatch.setattr(lease.jax, "default_backend", lambda: "gpu")
    ours = [not job.startswith("other") for job, _ in lease.kernels()]
    assert ours == sorted(ours, reverse=True) and not ours[-1]
    # What the paper reports is among them.
    assert "1600m 1024 20 steps" in [job for job, _ in lease.image()]


def test_the_variants_that_are_timed_are_checked_before(lease):
    def steps(heads, tokens):
        array = jax.ShapeDtypeStruct((1, tokens, heads, 32), jnp.bfloat16)
        return attention_gpu._Grid.of(0.0, array).steps

    def rows(expanded, height, _=None):
        blocks = -(-expanded // glu_gpu.FORWARD_CHANNELS)
        return glu_gpu._choose_rows(1, height, blocks)

    for bench, variant in ((lease.attention, steps), (lease.glu, rows)):
        checked, timed = (
            {variant(*size) for size in sizes[bench]}
            for sizes in (lease.CHECKED, lease.TIMED)
        )
        assert timed <= checked
        assert len(checked) >= 3


def test_a_constant_offset_is_an_error(lease):
    expected = np.float32([1, -2, 2, 4])
    assert lease.relative_rms(expected, expected) == 0
    assert lease.relative_rms(expected + 1, expected) == pytest.approx(0.4)


def test_a_kernel_that_fails_keeps_the_other_rows(lease, tmp_path, monkeypatch):
    def fail_grouped(function, *arrays, **_):
        return seconds.pop(0) / 0 if len(seconds) == 6 else seconds.pop(0)

    seconds = [1e-3 * n for n in range(1, 7)]
    monkeypatch.setattr(lease.Ceilings, "measured", lambda _: lease.Ceilings(1.0, 1e9))
    monkeypatch.setattr(bench_lib, "seconds_per_call", fail_grouped)
    path = tmp_path / "kernels.jsonl"
    monkeypatch.setattr(
        lease,
        "STAGES",
        {"kernels": lambda: [j for j in lease.kernels() if j[0].startswith("glu")]},
    )
    assert lease.main("kernels", path) == 1
    (job,) = rows_of(path)
    assert ["error" in row for row in job["rows"]] == [True] + [False] * 5


def test_a_job_with_a_failed_row_is_done_again(lease, tmp_path, monkeypatch):
    path = tmp_path / "fake.jsonl"
    attempts = iter(
        [[{"ms": 1.0}, {"error": "MemoryError"}], [{"ms": 1.0}, {"ms": 2.0}]]
    )
    monkeypatch.setitem(lease.STAGES, "fake", lambda: [("job", lambda: next(attempts))])
    assert [lease.main("fake", path) for _ in range(3)] == [1, 0, 0]
    assert ["error" in job["rows"][1] for job in rows_of(path)] == [True, False]


@pytest.mark.slow
def test_the_whole_script_twice(lease, tmp_path):
    blocked = tmp_path / "blocked"
    for name in ABSENT:
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ImportError('not here')")
    results = tmp_path / "results"
    environment = os.environ | {
        "LEASE_SHORT": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(blocked),
    }

    def run():
        command = ["bash", FOLDER / "lease.sh", results, "1500"]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )

    first = run()
    log = (results / "log.txt").read_text()
    assert first.returncode == 0, first.stdout + log
    stages = {path.stem: rows_of(path) for path in results.glob("*.jsonl")}
    # Diffusers has nothing to do at this size.
    assert set(stages) == set(lease.STAGES) - {"diffusers"}
    for stage, jobs in stages.items():
        for job in jobs:
            assert job["rows"], (stage, job)
            assert not any("error" in row for row in job["rows"]), (stage, job)
    assert run().returncode == 0
    assert stages == {path.stem: rows_of(path) for path in results.glob("*.jsonl")}
