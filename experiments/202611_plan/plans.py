"""Plans the large presets on slices and nodes, and writes the tables of docs/pods.md.

python experiments/202611_plan/plans.py run    # compiles what results.json lacks
python experiments/202611_plan/plans.py table  # puts the tables into docs/pods.md
"""

import importlib.metadata
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from linearsr_jax.plan.memory import USABLE

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE.parents[1] / "docs" / "pods.md"
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "h200:8")
CHIPS = {"v5e:4x4": 16, "v5e:16x16": 256, "v5p:4x4x4": 64, "h200:8": 8}
BATCH = 512
# Samples of 512 pixels that a chip is given at once, by preset.
AT_ONCE = {
    "v5e": {"600m": 32, "1600m": 16},
    "v5p": {"600m": 128, "1600m": 64},
    "h200": {"600m": 128, "1600m": 64},
}
FSDP = {"v5e:4x4": 16, "v5e:16x16": 16, "v5p:4x4x4": 8, "h200:8": 8}


def training(preset: str, experts: int, crop: int, topology: str) -> str:
    """The command that plans a training step."""
    chip = topology.partition(":")[0]
    own = CHIPS[topology] // experts
    at_once = max(1, AT_ONCE[chip][preset] * 512**2 // crop**2)
    accumulation = max(1, BATCH // own // at_once)
    config = "pretrain" if experts == 1 else "experts"
    overrides = [f"mesh.fsdp={min(FSDP[topology], own)}", f"data.crop_size={crop}"]
    if experts > 1:
        overrides.append(f"mesh.experts={experts}")
    if accumulation > 1:
        overrides.append(f"accumulation={accumulation}")
    return (
        f"linearsr plan --config configs/{config}.py:{preset} --topology {topology} "
        f"--json --override {' '.join(overrides)}"
    )


def sampling(preset: str, experts: int, side: int, topology: str) -> str:
    """The command that plans an image of 20 steps."""
    config = "pretrain" if experts == 1 else "experts"
    return (
        f"linearsr plan --config configs/{config}.py:{preset} --topology {topology} "
        f"--json --image {side}x{side} --steps 20"
    )


def commands() -> Iterator[str]:
    """All rows, those of one expert and small images first."""
    presets = ("600m", "1600m")
    for experts, side, topology, preset in itertools.product(
        (1, 4), (512, 1024), TOPOLOGIES, presets
    ):
        yield training(preset, experts, side, topology)
        # A chip upscales alone, so the number of them does not matter.
        if topology != "v5e:16x16":
            yield sampling(preset, experts, side, topology)


def read() -> dict[str, dict]:
    """The rows so far, by command."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def run(part: str = "") -> None:
    """Compiles what is missing, one program at a time; commands that contain part."""
    packages = ("jax", "libtpu", "jax-cuda13-pjrt")
    versions = {name: importlib.metadata.version(name) for name in packages}
    for command in commands():
        if command in read() or part not in command:
            continue
        start = time.monotonic()
        program = [sys.executable, "-m", "linearsr_jax", *command.split()[1:]]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        seconds = round(time.monotonic() - start)
        if done.returncode not in (0, 3):
            print(command, done.stderr[-500:], file=sys.stderr, flush=True)
            continue
        row = {"seconds": seconds, **versions, "plan": json.loads(done.stdout)}
        RESULTS.write_text(json.dumps(read() | {command: row}, indent=1) + "\n")
        print(command, seconds, flush=True)


def _words(command: str) -> tuple[str, str, dict[str, str]]:
    found = re.search(r"configs/(\w+)\.py:(\w+)", command)
    changes = dict(re.findall(r"([\w.]+)=(\S+)", command))
    return found[2], "one" if found[1] == "pretrain" else "four", changes


def _memory(plan: dict) -> str:
    sizes = plan["bytes_per_chip"]
    fits = "fits" if plan["fits"] else f"does not fit: {plan['advice']}"
    total, limit = (sizes[name] / 2**30 for name in ("total", "limit"))
    # Of a refused program the compiler does not always say what it would need. Then the
    # total is the chip's memory, of which the limit is 95 %.
    if not plan["fits"] and abs(total - limit / USABLE) < 0.01:
        return f"more than {limit:.1f} GiB: {fits}"
    return f"{total:.1f} of {limit:.1f} GiB: {fits}"


def table() -> None:
    """Puts the tables between the marks in docs/pods.md."""
    found = read()
    rows = {"training": [], "sampling": []}
    for command in commands():
        if command not in found:
            continue
        plan = found[command]["plan"]
        preset, experts, changes = _words(command)
        time = f"{plan['seconds_bound']:.3g} s, {plan['bound_by']}"
        if plan.get("collectives") == {}:
            time += " (messages unknown)"
        mfu = f"{100 * plan['mfu_bound']:.0f} %"
        if "image" in plan:
            side = plan["image"][0]
            rate = plan["images_per_second_bound"] / plan["chips"]
            rows["sampling"].append(
                f"| {preset} | {experts} | {side} | {plan['topology'].split(':')[0]} | "
                f"{_memory(plan)} | {plan['flops_per_image'] / 1e12:.1f} TFLOP | "
                f"{time} | {rate:.1f} | {mfu} |"
            )
        else:
            crop = changes.pop("data.crop_size")
            changed = " ".join(f"{k}={v}" for k, v in changes.items())
            rows["training"].append(
                f"| {preset} | {experts} | {crop} | {plan['topology']} | {changed} | "
                f"{_memory(plan)} | {plan['flops_per_step'] / 1e12:,.0f} TFLOP | "
                f"{time} | {mfu} |"
            )
    heads = {
        "training": "| preset | experts | crop | topology | overrides | a chip needs | "
        "products a step | a step takes at least | MFU at most |",
        "sampling": "| preset | experts | image | chip | a chip needs | products an "
        "image | an image takes at least | images a second and chip, at most | MFU at "
        "most |",
    }
    text = PAGE.read_text()
    for kind, lines in rows.items():
        rule = "| --- " * (heads[kind].count("|") - 1) + "|"
        begin, end = f"<!-- plans: {kind} -->\n", "<!-- end -->"
        if not lines:
            continue
        start = text.index(begin) + len(begin)
        stop = text.index(end, start)
        new = "\n".join([heads[kind], rule, *lines]) + "\n"
        text = text[:start] + new + text[stop:]
    PAGE.write_text(text)


if __name__ == "__main__":
    {"run": run, "table": table}[sys.argv[1]](*sys.argv[2:])
