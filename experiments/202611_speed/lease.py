"""Runs one stage of lease.sh: python lease.py STAGE RESULTS.jsonl

A stage is a list of jobs. Each adds a line {"job", "begun"} to the file, and as it ends
one of {"job", "seconds", "rows"} or {"job", "seconds", "error"}. Jobs whose rows the
file has already are left out; one that failed, or never ended, is done once more, after
those that were never tried. After a failure that breaks the device for this process the
stage ends, to go on in the next call. Only jax, flax and numpy,
with jaxtyping, are needed, but for stage image.
"""

import collections
import dataclasses
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

from kernels_pallas import bench_lib, glu_depthwise_conv, linear_attention, tuning
from kernels_pallas.glu_depthwise_conv import bench as glu
from kernels_pallas.linear_attention import bench as attention
from linearsr_jax.benchmarks.forward import (
    Ceilings,
    forward_rows,
    make_condition,
    random_params,
)
from linearsr_jax.models.presets import get_preset

HERE = Path(__file__).parent
SHORT = bool(os.environ.get("LEASE_SHORT"))
PRESET = "debug" if SHORT else "1600m"
SMALLER = "debug" if SHORT else "600m"
DTYPE = "bfloat16"
SIDE = 64 if SHORT else 1024  # Of the output, where the paper states its times.
# A network in bfloat16 differs from float32 by a few hundredths of its output's RMS,
# whatever the form of its operations: how much is recorded, and this is a failure.
MAX_NETWORK_ERROR = 0.3
# What is timed, at (heads, tokens) and (E, rows and columns), and checked before.
TIMED = {
    attention: [(70, 1024), (70, 4096), (36, 1024), (70, 16384), (70, 65536)],
    glu: [(5600, 32), (5600, 64), (2880, 32), (5600, 128), (128, 256)],
}
# Odd sizes that are only compared with float64, (heads, tokens) and (E, rows, columns).
# A block of the GPU kernels takes as many steps, or rows, as the size asks for: here
# are 1, 2, 4 and 16 steps, and 2, 4 and 8 rows of which the last band has a part.
CHECKED = {
    attention: [(2, 8192), (36, 1024), (70, 1024), (70, 4096)],
    glu: [(264, 9, 10), (128, 17, 20), (2880, 16, 33), (5600, 46, 9), (5600, 98, 5)],
}
# What `tune` tries, one value at a time, in place of what a kernel would take there.
# Sizes follow one another, because the exact results of only one are kept.
_EVERY = ("forward", "forward and gradient")
TRIED = {
    "gpu": [
        (attention, (70, 1024), tuning.AttentionOnGpu, "steps", (2, 1), _EVERY),
        (attention, (70, 1024), tuning.AttentionOnGpu, "stages", (3, 4), _EVERY),
        (attention, (70, 4096), tuning.AttentionOnGpu, "steps", (8, 4), _EVERY),
        (attention, (70, 4096), tuning.AttentionOnGpu, "stages", (3,), _EVERY),
        (glu, (5600, 32), tuning.GluOnGpu, "rows", ((4,), (8,)), _EVERY[:1]),
        (glu, (5600, 32), tuning.GluOnGpu, "channels", (128,), _EVERY[:1]),
        (glu, (5600, 32), tuning.GluOnGpu, "gradient_bands", ((1,), (4,)), _EVERY[1:]),
        (glu, (5600, 64), tuning.GluOnGpu, "rows", ((2,), (8,)), _EVERY[:1]),
        (glu, (5600, 64), tuning.GluOnGpu, "gradient_bands", ((2,), (8,)), _EVERY[1:]),
    ],
    "tpu": [
        (attention, (70, 1024), tuning.AttentionOnTpu, "tokens", (256, 1024), _EVERY),
        (glu, (5600, 32), tuning.GluOnTpu, "channels", (256,), _EVERY),
        (glu, (5600, 32), tuning.GluOnTpu, "rows", (8, 32), _EVERY),
    ],
}
# Keys of the cross-attention of 1600m, and its heads; nothing else of it is long.
TEXT, CROSS_HEADS, CROSS_SIZE = 300, 20, 112
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
    on_cpu = jax.default_backend() == "cpu"
    for bench, sizes in (short if SHORT else CHECKED).items():
        # Of the operations only the convolution has a GPU kernel for float32.
        dtypes = (DTYPE, "float32") if bench is glu else (DTYPE,)
        if on_cpu:
            dtypes = ("float32",)
        # The exact results of a size are computed once, for all forms and passes.
        for dtype, size, key in itertools.product(dtypes, sizes, bench.forms()):

            def check(bench=bench, dtype=dtype, key=key, size=size):
                error = bench.max_error(dtype, bench.forms(), key, *size)
                return [{"max_error": error, "allowed": bench.MAX_ERROR[dtype]}]

            yield f"{_name(bench)} {dtype} {' '.join(key)} {_text(size)}", check
    for name in dict.fromkeys((SMALLER, PRESET)):
        for form in dict.fromkeys((kernel_form(), "reference")):
            yield f"network {name} {form}", functools.partial(network, name, form)


def _name(bench) -> str:
    return bench.__name__.split(".")[1]


def _text(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


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
    if not max(row.values()) < MAX_NETWORK_ERROR:
        raise ArithmeticError(f"{name}, form {form!r}: off by {row}")
    return [row]


def relative_rms(actual: np.ndarray, expected: np.ndarray) -> float:
    """RMS of the difference, relative to that of the expected values.

    A constant offset counts, which a standard deviation would not see.
    """
    difference = np.asarray(actual, np.float64) - expected
    return float(np.sqrt(np.mean(difference**2) / np.mean(np.square(expected))))


def kernels() -> Jobs:
    """This device's kernels at the networks' sizes; cuDNN's cross-attention."""
    jobs = list(_timed(lambda form, first: form == first))
    # The first sizes are those of 1600m at 1024 x 1024, as are the first of these.
    yield from jobs[:4]
    if jax.default_backend() == "gpu":
        for form in ("cudnn", "xla"):
            yield f"cross-attention {form}", functools.partial(cross_attention, form)
    yield from jobs[4:]


def baselines() -> Jobs:
    """What the kernels replace, and other libraries."""
    yield from _timed(lambda form, first: form != first)
    # Last, because PyTorch compiles, and softmax takes long.
    for size in TIMED[attention] if jax.default_backend() == "gpu" else ():

        def others(size=size):
            return list(attention.other_rows(ceilings().copy, [size]))

        yield f"other attentions {_text(size)}", others


def _timed(is_chosen: Callable[[str, str], bool]) -> Jobs:
    """Jobs of one row each, so that a slow form does not lose the others."""
    sizes = {attention: [(2, 256)], glu: [(16, 8)]} if SHORT else TIMED
    in_turn = itertools.zip_longest(*([(b, x) for x in sizes[b]] for b in sizes))
    for bench, size in filter(None, itertools.chain.from_iterable(in_turn)):
        first, _ = next(iter(bench.forms()))
        for key in bench.forms():
            if is_chosen(key[0], first):

                def measure(bench=bench, key=key, size=size):
                    return [bench.row(ceilings().copy, key, size)]

                yield f"{_name(bench)} {' '.join(key)} {_text(size)}", measure


def cross_attention(form: str) -> Rows:
    """Times JAX's attention of image tokens to a text, by cuDNN or XLA."""
    rows = []
    for tokens in (1024, 4096):
        like = {"dtype": jnp.dtype(DTYPE)}
        q, k, v = (
            bench_lib.normals(1, n, CROSS_HEADS, CROSS_SIZE, seed=seed, **like)
            for seed, n in enumerate((tokens, TEXT, TEXT))
        )
        mask = jnp.ones((1, 1, tokens, TEXT), bool)

        def attend(q, k, v, mask=mask):
            return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=form)

        def measure(arrays=(q, k, v), attend=attend):
            seconds = bench_lib.seconds_per_call(attend, *arrays)
            return {"ms": 1e3 * seconds, **bench_lib.profiled(attend, *arrays)}

        rows.append(bench_lib.attempt(measure, form=form, tokens=tokens))
    return rows


def tune() -> Jobs:
    """The kernels with other values than `tuning.TUNED` has; `kernels` has those."""
    short = {attention: (2, 256), glu: (16, 8)}
    # A CPU has no kernel to tune, but the way to there can be tried.
    platform = "gpu" if SHORT else jax.default_backend()
    for bench, size, kind, field, values, passes in TRIED.get(platform, ()):
        form, _ = next(iter(bench.forms()))
        name, where = f"{_name(bench)} {form} {_text(size)}", size
        if SHORT:
            where = short[bench]
        for value, key in itertools.product(values, passes):
            tried = dataclasses.replace(tuning.tuned(kind), **{field: value})

            def measure(bench=bench, tried=tried, key=(form, key), size=where):
                with tuning.trying(tried):
                    return [bench.row(ceilings().copy, key, size)]

            yield f"{name} {key} {field} {value}", measure


def forward() -> Jobs:
    """One evaluation of the network: as it is used, by part, other sizes and ways."""
    form, depth = kernel_form(), get_preset(PRESET).depth
    sizes = (2 * SIDE,) if SHORT else (2048, 4096, 512)
    ways = [
        (PRESET, SIDE, form, depth, 1),
        # All rows: the parts, too.
        (PRESET, SIDE, form, depth, None),
        (PRESET, SIDE, "reference", depth, 1),
        *((PRESET, size, form, depth, 1) for size in sizes),
        (SMALLER, SIDE, form, get_preset(SMALLER).depth, 1),
        (PRESET, SIDE, form, 1, 1),
        (PRESET, SIDE, "reference", 1, 1),
    ]
    # On a CPU some are the same.
    for preset, size, form, unroll, count in dict.fromkeys(ways):
        parts = "" if count else " by part"
        yield (
            f"{preset} {size} {form} unroll {unroll}{parts}",
            functools.partial(evaluations, preset, size, form, unroll, count),
        )


def evaluations(preset, size, form, unroll, count) -> Rows:
    """Rows of `linearsr bench forward`, the first of which is the whole network."""
    how = {"implementation": form, "scan_unroll": unroll}
    rows = forward_rows(ceilings(), preset, [size], DTYPE, **how)
    return [row | how for row in itertools.islice(rows, count)]


def image() -> Jobs:
    """Whole images: time at 1024, memory beyond."""
    from linearsr_jax.benchmarks.upscale import upscale_rows

    def upscale(preset, size, steps, **how):
        rows = upscale_rows(ceilings(), preset, [size], steps, DTYPE, **how)
        return [row | how | peak_in_use() for row in rows]

    forms = dict.fromkeys((kernel_form(), "reference"))
    # Rising sizes: the allocator's peak is of the whole process so far.
    sizes = [(SIDE, 4), (SIDE, 20), (SIDE, 1), (2 * SIDE, 4), (4 * SIDE, 4)]
    pixel = "debug" if SHORT else "small"
    jobs = [(PRESET, *size, kernel_form()) for size in sizes]
    jobs += [("nano", SIDE, 1, form) for form in forms]
    jobs += [(pixel, n, 4, form) for n in (SIDE, 4 * SIDE) for form in forms]
    for preset, size, steps, form in dict.fromkeys(jobs):
        how = {"implementation": form, "scan_unroll": get_preset(preset).depth}
        yield (
            f"{preset} {size} {steps} steps {form}",
            functools.partial(upscale, preset, size, steps, **how),
        )


def peak_in_use() -> dict[str, float]:
    """The most memory that this process had in use, where the device counts it."""
    found = jax.devices()[0].memory_stats() or {}
    peak = found.get("peak_bytes_in_use")
    return {} if peak is None else {"peak_in_use_mb": round(peak / 1e6, 1)}


def diffusers() -> Jobs:
    """The same network in PyTorch, where diffusers is installed."""
    if SHORT:
        return
    if importlib.util.find_spec("diffusers") is None:
        # Under another name: once diffusers is there, the job is still to be done.
        yield f"{PRESET} diffusers, absent", lambda: [{"skipped": "no diffusers here"}]
        return
    for size in (SIDE, 512, 2048):

        def run(size=size):
            command = [sys.executable, HERE / "diffusers_forward.py", PRESET, str(size)]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            )
            return [json.loads(done.stdout.splitlines()[-1])]

        yield f"{PRESET} {size} diffusers", run


def gradient() -> Jobs:
    """The gradient of a batch, without optimiser, data pipeline or codec."""
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
        for form in dict.fromkeys((kernel_form(), "reference")):
            yield (
                f"{name} {size} batch {batch} remat {remat} {form}",
                functools.partial(gradient_rows, name, size, batch, remat, form),
            )


def gradient_rows(name: str, size: int, batch: int, remat: str, form: str) -> Rows:
    """The mean squared error's gradient in all parameters."""
    preset = get_preset(name)
    side = size // preset.codec_factor
    model = preset.make_model(dtype=jnp.dtype(DTYPE), implementation=form, remat=remat)
    params = jax.jit(model.init_params)(jax.random.key(0))
    shape = (batch, side, side, preset.latent_channels)
    latents, target = (bench_lib.normals(*shape, seed=seed) for seed in (0, 1))
    lr = bench_lib.normals(batch, size // 4, size // 4, 3, seed=2)
    sigma = jnp.full(batch, 0.5)

    def loss(params, target, *inputs):
        output = model.apply({"params": params}, *inputs)
        return jnp.mean(jnp.square(output - target))

    step = jax.jit(jax.value_and_grad(loss))
    inputs = params, target, latents, sigma, lr
    seconds = bench_lib.seconds_per_call(step, *inputs, calls=1)
    labels = {"preset": name, "size": size, "batch": batch, "remat": remat}
    times = {"ms": 1e3 * seconds, "samples_per_s": batch / seconds}
    return [labels | {"form": form} | times]


STAGES = {
    stage.__name__: stage
    for stage in (
        *(device, kernels, forward, image, tune),
        *(baselines, correct, diffusers, gradient),
    )
}


def has_error(job: dict) -> bool:
    """Says whether a job, or one of its rows, failed or never ended."""
    return "rows" not in job or any("error" in row for row in job["rows"])


def works() -> bool:
    """Says whether the device still does what it is told.

    After a kernel's illegal access a process of CUDA fails in all that it does.
    """
    try:
        return float(jnp.zeros(1)[0] + 1) == 1
    except Exception:
        return False


def main(stage: str, path: Path) -> int:
    """Runs what is not in the file yet; returns 1 if a job failed."""
    text = path.read_text() if path.exists() else ""
    # Where the machine stopped in the middle of a line the rest is missing.
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text)
    tried = list(map(json.loads, text.splitlines()))
    done = {job["job"] for job in tried if not has_error(job)}
    begun = collections.Counter(job["job"] for job in tried if "begun" in job)
    jobs = [job for job in STAGES[stage]() if job[0] not in done]

    def note(row):
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    failed = False
    for job, run in sorted(jobs, key=lambda job: begun[job[0]]):
        if begun[job] > 1:
            failed = True
            continue
        # Before, because a kernel that hangs is killed with this process.
        note({"job": job, "begun": time.strftime("%H:%M:%S")})
        start = time.perf_counter()
        result = bench_lib.attempt(lambda run=run: {"rows": run()}, job=job)
        result["seconds"] = round(time.perf_counter() - start, 1)
        note(result)
        print(stage, json.dumps(result), flush=True)
        if has_error(result):
            failed = True
            if not works():
                print(f"{stage}: the device fails after {job}", flush=True)
                break
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
