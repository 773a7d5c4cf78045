"""Runs one stage of lease.sh: python lease.py STAGE RESULTS.jsonl

A stage is a list of jobs. Each adds a line {"job", "seconds", "rows"} to the file, or
{"job", "seconds", "error"}. Jobs whose rows the file has already are left out. Only
jax, flax and numpy, with jaxtyping, are needed up to stage forward.
"""

import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas import bench_lib, glu_depthwise_conv, linear_attention
from kernels_pallas.glu_depthwise_conv import bench as glu
from kernels_pallas.linear_attention import bench as attention
from linearsr_jax.benchmarks.forward import (
    Ceilings,
    forward_rows,
    make_condition,
    random_params,
)
from linearsr_jax.models.presets import Preset, get_preset

HERE = Path(__file__).parent
SHORT = bool(os.environ.get("LEASE_SHORT"))
PRESET = "debug" if SHORT else "1600m"
SMALLER = "debug" if SHORT else "600m"
DTYPE = "bfloat16"
SIDE = 64 if SHORT else 1024  # Of the output, where the paper states its times.
# A network in bfloat16 differs from float32 by this much of its output's RMS, whatever
# the form of its operations; and gradients by twice that.
MAX_NETWORK_ERROR = 0.05
# Sizes of the operations that are compared with float64: (heads, tokens) and (E, rows,
# columns). A block of the GPU kernels takes as many steps, or rows, as the size asks
# for: here are 1, 2, 4 and 16 steps, and 2, 4 and 8 rows of which the last band has a
# part. Those that are timed are among them.
CHECKED = {
    attention: [(2, 8192), (36, 1024), (70, 1024), (70, 4096)],
    glu: [(264, 9, 10), (2880, 16, 33), (5600, 46, 9), (5600, 98, 5)],
}
TIMED = {
    attention: [(70, 1024), (70, 4096), (36, 1024), (70, 16384), (70, 65536)],
    glu: [(5600, 32), (5600, 64), (2880, 32), (5600, 128)],
}
Rows = list[dict]
Jobs = Iterator[tuple[str, Callable[[], Rows]]]


def kernel_form() -> str:
    """The form of the operations that this device's kernels are."""
    platform = jax.default_backend()
    return platform if platform in ("gpu", "tpu") else "reference"


@functools.cache
def ceilings() -> Ceilings:
    """This device's, measured once a stage."""
    return Ceilings.measured(DTYPE)


def device() -> Jobs:
    """What runs here: a small kernel; how fast a product and a copy are."""

    def describe():
        top = ceilings()
        row = {"device": bench_lib.device_name(), "jax": jax.__version__}
        return [
            row | {"python": sys.version.split()[0], "dtype": DTYPE},
            {"matmul_tflops": top.matmul / 1e12, "copy_gb_per_s": top.copy / 1e9},
        ]

    # First, because it ends soon: without ptxas or libdevice no kernel compiles.
    yield "small kernels", small_kernels
    yield "device", describe


def small_kernels() -> Rows:
    """One block of each operation, whose results are known."""
    tokens = jnp.ones((1, 64, 2, 32), jnp.dtype(DTYPE))
    mean = jax.jit(functools.partial(linear_attention, implementation=kernel_form()))(
        tokens, tokens, tokens
    )
    x = jnp.zeros((1, 2, 2, 512), jnp.dtype(DTYPE))
    weights = jnp.ones((3, 3, 512), x.dtype), jnp.ones(512, x.dtype)
    gated = jax.jit(
        functools.partial(glu_depthwise_conv, implementation=kernel_form())
    )(x, *weights)
    # silu(1), where only the bias is not zero.
    errors = {
        "linear_attention": float(jnp.max(jnp.abs(mean - 1))),
        "glu_depthwise_conv": float(jnp.max(jnp.abs(gated - 0.7311))),
    }
    if not all(error < 0.01 for error in errors.values()):
        raise ArithmeticError(f"off by {errors}")
    return [errors]


def correct() -> Jobs:
    """Every form of the operations against float64; networks against float32."""
    short = {attention: [(2, 256)], glu: [(8, 5, 6)]}
    dtype = "float32" if jax.default_backend() == "cpu" else DTYPE
    for bench, sizes in (short if SHORT else CHECKED).items():
        name = bench.__name__.split(".")[1]
        # The exact results of a size are computed once, for all forms and passes.
        for size, key in itertools.product(sizes, bench.forms()):
            job = f"{name} {' '.join(key)} {'x'.join(map(str, size))}"

            def check(bench=bench, key=key, size=size):
                error = bench.max_error(dtype, bench.forms(), key, *size)
                return [{"max_error": error, "allowed": bench.MAX_ERROR[dtype]}]

            yield job, check
    for name in dict.fromkeys((SMALLER, PRESET)):
        for form in dict.fromkeys(("reference", kernel_form())):
            yield f"network {name} {form}", functools.partial(network, name, form)


def network(name: str, form: str) -> Rows:
    """Output and gradient of a network in bfloat16 against float32's."""
    preset = get_preset(name)
    exact = preset.make_model(implementation="reference")
    params = random_params(exact)
    # Every block must matter, so nothing that is zero at first stays so.
    params = jax.tree.map(lambda x: jnp.where(jnp.any(x), x, 0.01), params)
    rng = np.random.default_rng(0)
    side = SIDE // preset.codec_factor
    latents, cotangent = rng.standard_normal(
        (2, 1, side, side, preset.latent_channels), np.float32
    )
    lr = rng.uniform(-1, 1, (1, SIDE // 4, SIDE // 4, 3)).astype(np.float32)
    condition = make_condition(exact, preset)

    def value_and_gradient(model, params, latents):
        def run(latents):
            sigma = jnp.full(1, 0.5)
            return model.apply({"params": params}, latents, sigma, lr, condition)

        value, vjp = jax.vjp(run, latents)
        return value, vjp(cotangent)[0]

    with jax.default_matmul_precision("highest"):
        expected = jax.jit(functools.partial(value_and_gradient, exact))(
            params, latents
        )
    model = preset.make_model(dtype=jnp.dtype(DTYPE), implementation=form)
    actual = jax.jit(functools.partial(value_and_gradient, model))(params, latents)
    row = {}
    for part, got, true in zip(("output", "gradient"), actual, expected, strict=True):
        row[part] = relative_rms(np.asarray(got), np.asarray(true))
    if not (row["output"] < MAX_NETWORK_ERROR > row["gradient"] / 2):
        raise ArithmeticError(f"{name}, form {form!r}: off by {row}")
    return [row]


def relative_rms(actual: np.ndarray, expected: np.ndarray) -> float:
    """RMS of the difference, relative to that of the expected values.

    A constant offset counts, which a standard deviation would not see.
    """
    difference = np.asarray(actual, np.float64) - expected
    return float(np.sqrt(np.mean(difference**2) / np.mean(np.square(expected))))


def kernels() -> Jobs:
    """Each operation at the networks' sizes, beside a copy and other libraries."""
    sizes = {attention: [(2, 256)], glu: [(16, 8)]} if SHORT else TIMED
    for bench in sizes:
        name = bench.__name__.split(".")[1]
        for size in sizes[bench]:
            job = f"{name} {'x'.join(map(str, size))}"
            yield job, functools.partial(kernel_rows, bench.rows, size)
    # Last, because PyTorch compiles, and softmax takes long.
    for size in sizes[attention] if jax.default_backend() == "gpu" else ():
        job = f"other attentions {'x'.join(map(str, size))}"
        yield job, functools.partial(kernel_rows, attention.other_rows, size)


def kernel_rows(rows: Callable, size: tuple[int, ...]) -> Rows:
    """Rows of a benchmark at one size."""
    return list(rows(ceilings().copy, [size]))


def forward() -> Jobs:
    """One evaluation of the network: each form, rolled and unrolled; then its parts."""
    preset = get_preset(PRESET)
    for form, unroll in ways(preset):
        yield (
            f"{PRESET} {SIDE} {form} unroll {unroll}",
            functools.partial(evaluations, PRESET, SIDE, form, unroll, 1),
        )
    form = kernel_form()
    yield (
        f"{PRESET} {SIDE} {form} by part",
        functools.partial(evaluations, PRESET, SIDE, form, preset.depth, None),
    )
    for size in (2 * SIDE,) if SHORT else (512, 2048, 4096):
        yield (
            f"{PRESET} {size} {form}",
            functools.partial(evaluations, PRESET, size, form, preset.depth, 1),
        )
    yield (
        f"{SMALLER} {SIDE} {form}",
        functools.partial(
            evaluations, SMALLER, SIDE, form, get_preset(SMALLER).depth, 1
        ),
    )


def ways(preset: Preset) -> Iterator[tuple[str, int]]:
    """(form of the operations, blocks in an iteration); what is best first."""
    forms = dict.fromkeys((kernel_form(), "reference"))
    return itertools.product(forms, (preset.depth, 1))


def evaluations(preset, size, form, unroll, count) -> Rows:
    """Rows of `linearsr bench forward`, the first of which is the whole network."""
    how = {"implementation": form, "scan_unroll": unroll}
    rows = forward_rows(ceilings(), preset, [size], DTYPE, **how)
    return [row | how for row in itertools.islice(rows, count)]


def image() -> Jobs:
    """Whole images: time at 1024, memory beyond."""
    from linearsr_jax.benchmarks.upscale import upscale_rows

    depth = get_preset(PRESET).depth

    def upscale(preset, size, steps, **how):
        rows = upscale_rows(ceilings(), preset, [size], steps, DTYPE, **how)
        return [row | how for row in rows]

    how = {"implementation": kernel_form(), "scan_unroll": depth}
    for size, steps in [(SIDE, 4), (SIDE, 20), (SIDE, 1), (2 * SIDE, 4), (4 * SIDE, 4)]:
        yield (
            f"{PRESET} {size} {steps} steps",
            functools.partial(upscale, PRESET, size, steps, **how),
        )
    pixel = "debug" if SHORT else "small"
    for size in (SIDE, 4 * SIDE):
        yield f"{pixel} {size} 4 steps", functools.partial(upscale, pixel, size, 4)
    yield f"nano {SIDE} 1 step", functools.partial(upscale, "nano", SIDE, 1)


def diffusers() -> Jobs:
    """The same network in PyTorch, where diffusers is installed."""
    if SHORT:
        return
    if importlib.util.find_spec("diffusers") is None:
        # Under another name: once diffusers is there, the job is still to be done.
        yield f"{PRESET} diffusers, absent", lambda: [{"skipped": "no diffusers here"}]
        return
    sizes = list(map(str, (512, SIDE, 2048)))

    def run():
        command = [sys.executable, HERE / "diffusers_forward.py", PRESET, *sizes]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return [json.loads(done.stdout.splitlines()[-1])]

    yield f"{PRESET} diffusers", run


def train() -> Jobs:
    """One training step of the presets, without data pipeline or codec."""
    for name, size, batch, remat in (
        [("debug", 32, 2, "blocks")]
        if SHORT
        # What the forward pass of small keeps for the gradient is 294 GB otherwise.
        else [
            ("nano", 384, 64, "none"),
            ("small", 512, 16, "blocks"),
            ("600m", 1024, 4, "none"),
        ]
    ):
        yield (
            f"{name} {size} batch {batch} remat {remat}",
            functools.partial(gradient_step, name, size, batch, remat),
        )


def gradient_step(name: str, size: int, batch: int, remat: str) -> Rows:
    """The mean squared error's gradient in all parameters."""
    preset = get_preset(name)
    side = size // preset.codec_factor
    rows = []
    for form in dict.fromkeys(("reference", kernel_form())):
        model = preset.make_model(
            dtype=jnp.dtype(DTYPE), implementation=form, remat=remat
        )
        params = jax.jit(model.init_params)(jax.random.key(0))
        shape = (batch, side, side, preset.latent_channels)
        latents, target = (bench_lib.normals(*shape, seed=seed) for seed in (0, 1))
        lr = bench_lib.normals(batch, size // 4, size // 4, 3, seed=2)
        sigma = jnp.full(batch, 0.5)

        def loss(params, target, *inputs, model=model):
            output = model.apply({"params": params}, *inputs)
            return jnp.mean(jnp.square(output - target))

        def measure(loss=loss, inputs=(params, target, latents, sigma, lr)):
            step = jax.jit(jax.value_and_grad(loss))
            seconds = bench_lib.seconds_per_call(step, *inputs, calls=1)
            return {"ms": 1e3 * seconds, "samples_per_s": batch / seconds}

        labels = {"preset": name, "size": size, "batch": batch, "remat": remat}
        rows.append(bench_lib.attempt(measure, **labels, form=form))
    return rows


STAGES = {
    stage.__name__: stage
    for stage in (device, correct, kernels, forward, image, diffusers, train)
}


def has_error(job: dict) -> bool:
    """Says whether a job, or one of its rows, failed."""
    return "error" in job or any("error" in row for row in job["rows"])


def main(stage: str, path: Path) -> int:
    """Runs what is not in the file yet; returns 1 if a job failed."""
    lines = path.read_text().splitlines() if path.exists() else []
    done = {r["job"] for r in map(json.loads, lines) if not has_error(r)}
    failed = False
    for job, run in STAGES[stage]():
        if job in done:
            continue
        start = time.perf_counter()
        result = bench_lib.attempt(lambda run=run: {"rows": run()}, job=job)
        result["seconds"] = round(time.perf_counter() - start, 1)
        failed |= has_error(result)
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(stage, json.dumps(result), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
