"""The script for the first accelerator, rehearsed on the CPU at small sizes."""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import bench_lib, glu_depthwise_conv, linear_attention, tuning
from kernels_pallas.glu_depthwise_conv import gpu as glu_gpu
from kernels_pallas.linear_attention import gpu as attention_gpu
from kernels_pallas.testing import GPU, lower
from kernels_pallas.tuning import GluOnGpu, tuned

FOLDER = Path(__file__).parents[2] / "experiments" / "202611_speed"
# Not on the machines that are lent by the minute.
ABSENT = (
    *("clu", "grain", "jaxtyping", "ml_collections"),
    *("tensorboardX", "tensorflow_datasets"),
)


@pytest.fixture
def lease(monkeypatch):
    monkeypatch.setenv("LEASE_SHORT", "1")
    spec = importlib.util.spec_from_file_location("lease", FOLDER / "lease.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(path):
    """What has ended; a line before each job says that it has begun."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if "begun" not in row]


def test_a_failed_job_is_done_once_more_and_after_the_others(
    lease, tmp_path, monkeypatch
):
    path = tmp_path / "fake.jsonl"
    calls = []

    def fail():
        calls.append("fails")
        raise ArithmeticError("off by 1\nsecond line")

    def work():
        calls.append("works")
        return [{"ms": 1.0}]

    jobs = [("fails", fail), ("works", work)]
    monkeypatch.setitem(lease.STAGES, "fake", lambda: iter(jobs))
    assert lease.main("fake", path) == 1
    failed, worked = rows_of(path)
    assert failed["error"] == "ArithmeticError: off by 1"
    assert worked["rows"] == [{"ms": 1.0}]
    jobs.append(("works later", work))
    assert [lease.main("fake", path) for _ in range(2)] == [1, 1]
    assert calls == ["fails", "works", "works", "fails"]
    names = [row["job"] for row in rows_of(path)]
    assert names == ["fails", "works", "works later", "fails"]


def test_a_job_that_hangs_costs_one_more_call(lease, tmp_path, monkeypatch):
    """It is killed with its process, which leaves no other trace."""
    path = tmp_path / "fake.jsonl"

    def hang():
        raise KeyboardInterrupt

    jobs = [("hangs", hang), ("works", lambda: [{"ms": 1.0}])]
    monkeypatch.setitem(lease.STAGES, "fake", lambda: iter(jobs))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            lease.main("fake", path)
    assert [row["job"] for row in rows_of(path)] == ["works"]
    assert lease.main("fake", path) == 1


def test_a_job_that_breaks_the_device_ends_the_call(lease, tmp_path, monkeypatch):
    path = tmp_path / "fake.jsonl"
    is_broken = []

    def break_device():
        is_broken.append(True)
        raise RuntimeError("illegal memory access")

    jobs = [("breaks", break_device), ("works", lambda: [{"ms": 1.0}])]
    monkeypatch.setitem(lease.STAGES, "fake", lambda: iter(jobs))
    monkeypatch.setattr(lease, "works", lambda: not is_broken)
    assert lease.main("fake", path) == 1
    assert [row["job"] for row in rows_of(path)] == ["breaks"]
    is_broken.clear()  # As in a new process.
    assert lease.main("fake", path) == 1
    assert [row["job"] for row in rows_of(path)] == ["breaks", "works", "breaks"]


def test_the_device_works(lease):
    assert lease.works()


def test_what_is_tried_is_not_what_a_kernel_takes_anyway(lease):
    """By lowering: two that are equal would be timed as if they were not."""
    texts = {}
    for bench, size, kind, field, values, passes in lease.TRIED["gpu"]:
        if bench is lease.attention:
            shapes, operation = [(1, size[1], size[0], 32)] * 3, linear_attention
        else:
            shapes = [(1, size[1], size[1], 2 * size[0]), (3, 3, 2 * size[0])]
            shapes, operation = [*shapes, (2 * size[0],)], glu_depthwise_conv
        arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]

        def lowered(operation=operation, arrays=arrays, passes=passes):
            def run(*arrays):
                form = functools.partial(operation, implementation="gpu")
                if passes[0] == "forward":
                    return form(*arrays)
                out, vjp = jax.vjp(form, *arrays)
                return vjp(out)

            return lower(run, GPU, *arrays)

        seen = texts.setdefault((bench, size, passes), {lowered()})
        for value in values:
            tried = dataclasses.replace(tuning.tuned(kind), **{field: value})
            with tuning.trying(tried):
                text = lowered()
            assert text not in seen, (size, field, value)
            seen.add(text)


def test_a_line_cut_short_is_done_again(lease, tmp_path, monkeypatch):
    path = tmp_path / "fake.jsonl"
    jobs = [(name, lambda: [{"ms": 1.0}]) for name in ("one", "two")]
    monkeypatch.setitem(lease.STAGES, "fake", lambda: iter(jobs))
    lease.main("fake", path)
    path.write_text(path.read_text()[:-10])
    assert lease.main("fake", path) == 0
    assert [row["job"] for row in rows_of(path)] == ["one", "two"]


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
    # What the paper reports is among them.
    assert "1600m 1024 20 steps reference" in [job for job, _ in lease.image()]
    # What has never been measured comes before what it is compared with.
    monkeypatch.setattr(lease.jax, "default_backend", lambda: "gpu")
    ours, theirs = (
        [job for job, _ in stage()] for stage in (lease.kernels, lease.baselines)
    )
    assert ours[0] == "linear_attention gpu forward 70x1024"
    assert ours[2] == "glu_depthwise_conv gpu forward 5600x32"
    assert ours[4:6] == ["cross-attention cudnn", "cross-attention xla"]
    del ours[4:6]
    assert not {job.split()[1] for job in ours} & {x.split()[1] for x in theirs}
    assert next(iter(lease.forward()))[0] == "1600m 1024 gpu unroll 20"


def test_the_variants_that_are_timed_are_checked_before(lease):
    def steps(heads, tokens):
        array = jax.ShapeDtypeStruct((1, tokens, heads, 32), jnp.bfloat16)
        return attention_gpu._Grid.of(0.0, array).steps

    def rows(expanded, height, _=None):
        blocks = -(-expanded // tuned(GluOnGpu).channels)
        return glu_gpu._choose(tuned(GluOnGpu).rows, 1, height, blocks)

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


def test_a_form_that_fails_keeps_the_other_rows(lease, tmp_path, monkeypatch):
    def fail_once(function, *arrays, **_):
        return 1e-3 / (seconds.pop(0) - 2)

    seconds = [4, 2, 3, 1]
    monkeypatch.setattr(lease.Ceilings, "measured", lambda _: lease.Ceilings(1.0, 1e9))
    monkeypatch.setattr(bench_lib, "seconds_per_call", fail_once)
    path = tmp_path / "baselines.jsonl"
    assert lease.main("baselines", path) == 1
    jobs = rows_of(path)
    assert [job["job"].split()[1] for job in jobs] == ["shifted"] * 2 + ["grouped"] * 2
    assert ["error" in job["rows"][0] for job in jobs] == [False, True, False, False]


def test_a_job_with_a_failed_row_is_done_again(lease, tmp_path, monkeypatch):
    path = tmp_path / "fake.jsonl"
    attempts = iter(
        [[{"ms": 1.0}, {"error": "MemoryError"}], [{"ms": 1.0}, {"ms": 2.0}]]
    )
    monkeypatch.setitem(lease.STAGES, "fake", lambda: [("job", lambda: next(attempts))])
    assert [lease.main("fake", path) for _ in range(3)] == [1, 0, 0]
    assert ["error" in job["rows"][1] for job in rows_of(path)] == [True, False]


@pytest.fixture
def stub(tmp_path):
    """Runs lease.sh in a folder where each stage is a line of shell."""
    folder = tmp_path / "repository" / "experiments" / "speed"
    folder.mkdir(parents=True)
    (folder / "lease.sh").write_text((FOLDER / "lease.sh").read_text())
    python = tmp_path / "python"

    def run(stages, *arguments, **environment):
        # Called as python lease.py STAGE FILE.
        cases = "".join(f"{name}) {line};;" for name, line in stages.items())
        head = '#!/bin/bash\nshift; echo "$1" >>"$CALLS"; touch "$2"; '
        python.write_text(f'{head}case "$1" in {cases} esac\n')
        python.chmod(0o755)
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", folder / "lease.sh", *arguments],
            env=os.environ | {"PYTHON": str(python), "CALLS": str(calls)} | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, calls.read_text().split()

    return run


def test_stages_that_have_not_begun_come_first(stub, tmp_path):
    done, calls = stub({}, "results", "100", "device", "kernels")
    assert (done.returncode, calls) == (0, ["device", "kernels"])
    # Relative to where the user is, and not to the repository.
    assert (tmp_path / "results" / "kernels.jsonl").exists()
    _, calls = stub({}, "results", "100", "device", "kernels", "forward")
    assert calls == ["forward", "device", "kernels"]


def test_what_fails_comes_again_at_the_end_and_is_reported(stub):
    done, calls = stub({"kernels": "exit 1"}, "r", "100", "kernels", "forward")
    assert (done.returncode, calls) == (1, ["kernels", "forward", "kernels"])
    once = '[ -e "$2.again" ] || { touch "$2.again"; exit 1; }'
    done, calls = stub({"image": once}, "s", "100", "image", "forward")
    assert done.returncode == 0
    assert calls == ["image", "forward", "image"]


def test_results_are_copied_after_each_stage(stub, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    look = f"tar tf {out}/results.tgz | grep -q device.jsonl || exit 1"
    done, _ = stub({"kernels": look}, "r", "100", "device", "kernels", OUT=str(out))
    assert done.returncode == 0
    with tarfile.open(out / "results.tgz") as packed:
        assert {"./device.jsonl", "./kernels.jsonl"} <= set(packed.getnames())


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
