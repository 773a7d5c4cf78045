"""Helpers for the benchmarks of all operations: time, bandwidth, the report.

The operations do little arithmetic per byte, so the yardstick is the device's own
copy, measured in the same run: a fraction of 1 is as fast as memory allows.
"""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")
logger = logging.getLogger("kernels_pallas")


def device_name() -> str:
    """Names the default device."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu, {os.cpu_count()} cores"
    return device.device_kind


def seconds_per_call(
    function: Callable,
    *arrays: jax.Array,
    calls: int = 10,
    at_least: float = 0.2,
    repeats: int = 3,
) -> float:
    """Times a function of arrays on the default device.

    The calls run in a loop on the device, so that Python's cost of a call is not in
    the figure; the best of the repeats counts.

    Args:
      function: function of the arrays.
      *arrays: arguments of the function.
      calls: calls in the loop. 1 is for what takes milliseconds on an accelerator:
        the function is called from Python as it is, so jit it.
      at_least: seconds that one repeat should take; the loop runs that often.
      repeats: number of repeats.
    """

    @jax.jit
    def loop(*arrays):
        def body(_, carry):
            # The barrier ties this call's arguments to the last call's result, so
            # that XLA neither drops a call nor lifts it out of the loop.
            arrays, _ = jax.lax.optimization_barrier(carry)
            return arrays, function(*arrays)

        # The number is known when compiling: a GPU would otherwise ask the host before
        # every iteration whether to go on. The first call is outside the loop.
        return jax.lax.fori_loop(0, calls - 1, body, (arrays, function(*arrays)))[1]

    run = function if calls == 1 else loop
    return (
        best_seconds(lambda: run(*arrays), jax.block_until_ready, at_least, repeats)
        / calls
    )


def best_seconds(
    run: Callable[[], T],
    wait: Callable[[T], Any],
    at_least: float = 0.2,
    repeats: int = 3,
) -> float:
    """Times what any library runs: the best of the repeats, per run.

    Args:
      run: starts the work. The first run, which may compile, is not timed.
      wait: returns when the work of the last run, whose result it gets, is done.
      at_least, repeats: see `seconds_per_call`.
    """

    def timed(loops):
        start = time.perf_counter()
        for _ in range(loops):
            result = run()
        wait(result)
        return time.perf_counter() - start

    timed(1)  # Compiles.
    loops = max(1, round(at_least / max(timed(1), 1e-7)))
    return min(timed(loops) for _ in range(repeats)) / loops


def profiled(function: Callable, *arrays: jax.Array) -> dict[str, Any]:
    """Asks an NVIDIA GPU's own profiler how long the kernels of a call take.

    Unlike `seconds_per_call` it counts neither a loop nor gaps between kernels.

    Args:
      function: function of the arrays.
      *arrays: arguments of the function.

    Returns:
      {"device_ms"}, the least of five calls; {"device_ms_error"} where CUPTI does not
      profile, which must not lose the other figures; nothing on other devices.
    """
    if jax.default_backend() != "gpu":
        return {}
    try:
        from jax.experimental.mosaic.gpu import profiler

        _, milliseconds = profiler.measure(jax.jit(function), iterations=5)(*arrays)
        if not milliseconds:
            return {"device_ms_error": "CUPTI saw no kernel"}
        return {"device_ms": round(min(milliseconds), 4)}
    except Exception as error:
        return {"device_ms_error": f"{type(error).__name__}: {error}"[:200]}


def normals(
    *shape: int, dtype: jnp.dtype | type = jnp.float32, seed: int = 0
) -> jax.Array:
    """Draws standard normals on the default device, as input to be timed on.

    With constants a product takes less power, and so runs at higher clock rates than
    in use.
    """
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def copy_bandwidth() -> float:
    """Bytes per second, read plus written, of a copy from device to device.

    Negation stands for the copy, which XLA would leave out; it moves the same bytes.
    """
    on_cpu = jax.default_backend() == "cpu"
    x = normals(2**25 if on_cpu else 2**28)
    return 2 * x.nbytes / seconds_per_call(jnp.negative, x)


def matmul_ceiling(dtype: jnp.dtype) -> float:
    """Measures the FLOP/s of a large product of square matrices of that type."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    x = normals(side, side, dtype=dtype)
    return 2 * side**3 / seconds_per_call(jnp.matmul, x, x)


def row(seconds: float, moved: int, copy: float, **labels: Any) -> dict[str, Any]:
    """Makes one row of the report.

    The calls repeat on the same arrays. Where these fit into the device's cache, tens
    of MB on a GPU, they stay there: fraction_of_copy says how fast memory is used only
    beyond, and may exceed 1 below.

    Args:
      seconds: per call.
      moved: bytes that must be read or written at least.
      copy: `copy_bandwidth()` of the same run.
      **labels: what was measured.
    """
    return {
        **labels,
        "ms": round(1e3 * seconds, 4),
        "gb_per_s": round(moved / seconds / 1e9, 2),
        "fraction_of_copy": round(moved / seconds / copy, 4),
    }


def attempt(measure: Callable[[], dict[str, Any]], **labels: Any) -> dict[str, Any]:
    """Makes a row of labels and of what measure returns, or of how it failed.

    A kernel that fails must not lose the other rows. The row has the first line of the
    error; all of it, and where it was raised, goes to stderr.
    """
    try:
        return {**labels, **measure()}
    except Exception as error:
        print(f"{labels}:", file=sys.stderr)
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        return {**labels, "error": f"{type(error).__name__}: {lines[0][:300]}"}


def checked_row(
    check: Callable[[], float],
    function: Callable,
    make_arrays: Callable[[], Sequence[jax.Array]],
    moved: int,
    copy: float,
    **labels: Any,
) -> dict[str, Any]:
    """Makes the row of a form of an operation: its error, and then its time.

    Args:
      check: returns the error, or raises where it is too large to be timed.
      function: function of the arrays.
      make_arrays: makes them; the last one has the output's size.
      moved: arrays of that size that must be read or written at least.
      copy: see `row`.
      **labels: what was measured.
    """

    def measure():
        error, arrays = check(), make_arrays()
        seconds = seconds_per_call(function, *arrays)
        found = row(seconds, moved * arrays[-1].nbytes, copy)
        return {"max_error": error, **found, **profiled(function, *arrays)}

    found = attempt(measure, **labels)
    logger.info("%s", found)
    return found


def default_dtype() -> str:
    """Names the type that benchmarks run in: float32 on CPU, bfloat16 elsewhere."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def report(rows: list[dict[str, Any]], copy: float) -> dict[str, Any]:
    """Makes the JSON object that a benchmark prints."""
    return {
        "device": device_name(),
        "jax": jax.__version__,
        "copy_gb_per_s": round(copy / 1e9, 2),
        "rows": rows,
    }


def format_report(report: dict[str, Any]) -> str:
    """Formats the report as a table; a row that lacks a value has a dash there."""
    names = list(dict.fromkeys(name for row in report["rows"] for name in row))
    rows = [names, *([row.get(name) for name in names] for row in report["rows"])]
    cells = [["-" if value is None else str(value) for value in r] for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, r, widths)).rstrip() for r in cells]
    title = f"{report['device']}, copy {report['copy_gb_per_s']} GB/s"
    return "\n".join([title, *lines])


def is_rounded_once(form: str, dtype: str) -> bool:
    """Says whether a form is a kernel whose float32 becomes bfloat16 at the end."""
    return dtype == "bfloat16" and form in ("gpu", "tpu")


def max_error(
    label: str,
    function: Callable,
    arrays: Sequence[jax.Array],
    exact: Sequence[np.ndarray],
    allowed: float,
    part: Callable[[jax.Array], jax.Array] = lambda result: result,
    beyond_rounding: float | None = None,
) -> float:
    """Computes the largest error of any result, relative to its largest value.

    Args:
      label: name of the comparison, for the error message.
      function: function of the arrays that returns any tree of arrays.
      arrays: arguments of the function.
      exact: expected results in float64; there may be more than the function returns.
      allowed: bound of the error.
      part: takes from a result what is compared. It is no part of the compiled
        function, so that this one computes all, as when it is timed.
      beyond_rounding: bound of what is left of the error where the exact result was
        rounded once to the result's type. In bfloat16 that rounding hides the errors
        that a kernel makes when it reads what is not there yet. None for forms that
        round in between.

    Returns:
      The error, to two digits.

    Raises:
      ArithmeticError: the error is beyond a bound, or not a number.
    """
    results = jax.tree.leaves(jax.jit(function)(*arrays))
    errors, rests = [], []
    for result, truth in zip(results, exact, strict=False):
        off = np.abs(np.asarray(part(result), np.float64) - truth)
        # Half a unit in the last place, and a little for what tips a tie.
        rounding = 1.01 * float(jnp.finfo(result.dtype).eps) / 2 * np.abs(truth)
        largest = np.abs(truth).max()
        errors.append(off.max() / largest)
        rests.append((off - rounding).max() / largest)
    error, rest = np.max(errors), np.max(rests)
    if not error <= allowed:
        raise ArithmeticError(
            f"{label}: off by {error:.1e} of the largest value (allowed: {allowed})"
        )
    if beyond_rounding is not None and rest > beyond_rounding:
        raise ArithmeticError(
            f"{label}: off by {rest:.1e} of the largest value, beyond one rounding "
            f"(allowed: {beyond_rounding})"
        )
    return float(f"{error:.1e}")
