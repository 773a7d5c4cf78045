"""Training steps at their real batches compile for the slices; slow.

Those of the large presets are compared with what is published, and the small ones must
fit. All of them take most of an hour; `-k "not published or v5e:4x4"` takes a part.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "experiments" / "202611_plan" / "plans.py"
spec = importlib.util.spec_from_file_location("plans", FILE)
plans = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plans)
PUBLISHED = {
    command: row["plan"]
    for command, row in plans.read().items()
    if "--image" not in command
}


def plan(command):
    """Runs a command of `linearsr plan` in a process of its own.

    libtpu is loaded once, for one purpose.
    """
    package = "jax_cuda13_plugin" if "h200" in command else "libtpu"
    pytest.importorskip(package, reason="compiles for what is not here")
    done = subprocess.run(
        [sys.executable, "-m", "linearsr_jax", *command.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("command", PUBLISHED)
def test_a_published_plan_is_made_again(command):
    found, published = plan(command), PUBLISHED[command]
    for name in ("chips", "fits", "flops_per_step", "bound_by"):
        assert found[name] == published[name], name
    # Another release of a compiler may plan a little differently.
    for name, size in published["bytes_per_chip"].items():
        assert found["bytes_per_chip"][name] == pytest.approx(size, rel=0.1), name
    sent, expected = (
        sum(kind["bytes"] for kind in one["collectives"].values())
        for one in (found, published)
    )
    assert sent == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["pretrain", "experts"])
@pytest.mark.parametrize(
    ("preset", "topology", "override"),
    [
        # Its batch of 8 divides by no other number of chips here.
        ("nano", "h200:8", ""),
        ("nano", "v5e:16x16", "batch_size=256"),
        # As 64 do not by 256.
        ("small", "h200:8", ""),
        ("small", "v5e:4x4", ""),
        ("small", "v5p:4x4x4", ""),
        ("1600m_qk", "v5p:4x4x4", ""),
    ],
)
def test_other_presets_fit(preset, topology, override, config):
    found = plan(
        f"linearsr plan --config configs/{config}.py:{preset} --topology {topology} "
        f"--json --override val.holdout=0.1 {override}"
    )
    assert found["fits"]
    assert found["chips"] == plans.CHIPS[topology]


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5p:4x4x4", "h200:8"])
def test_a_published_image_is_planned_again(topology):
    command = plans.sampling("600m", 1, 512, topology)
    found, published = plan(command), plans.read()[command]["plan"]
    for name in ("chips", "fits", "flops_per_image", "bound_by"):
        assert found[name] == published[name], name
    total = found["bytes_per_chip"]["total"]
    assert total == pytest.approx(published["bytes_per_chip"]["total"], rel=0.1)
