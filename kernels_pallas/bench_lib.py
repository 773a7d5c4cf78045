"""Helpers for the benchmarks of all operations: time, bandwidth, the report.

The operations do little arithmetic per byte, so the yardstick is the device's own
copy, measured in the same run: a fraction of 1 is as fast as memory allows.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def device_name() -> str:
    """Names the default device."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu, {os.cpu_count()} cores"
    return device.device_kind


def seconds_per_call(
    function: Callable, *arrays: jax.Array, at_least: float = 0.2, repeats: int = 3
) -> float:
    """Times a function of arrays on the default device.

    The calls run in a loop on the device, so that Python's cost of a call is not in
    the figure; the best of the repeats counts.

    Args:
      function: function of the arrays.
      *arrays: arguments of the function.
      at_least: seconds that one repeat should take.
      repeats: number of repeats of the whole loop.
    """

    @jax.jit
    def loop(count, arrays):
        def body(_, carry):
            # The barrier ties this call's arguments to the last call's result, so
            # that XLA neither drops a call nor lifts it out of the loop.
            arrays, _ = jax.lax.optimization_barrier(carry)
            return arrays, function(*arrays)

        return jax.lax.fori_loop(0, count, body, (arrays, function(*arrays)))[1]

    def timed(count):
        start = time.perf_counter()
        jax.block_until_ready(loop(count, arrays))
        return time.perf_counter() - start

    timed(1)  # Compiles.
    # A loop of n runs the function n + 1 times.
    count = max(1, round(at_least / max(timed(1) / 2, 1e-7)))
    return min(timed(count) for _ in range(repeats)) / (count + 1)


def copy_bandwidth() -> float:
    """Bytes per second, read plus written, of a copy from device to device.

    Negation stands for the copy, which XLA would leave out; it moves the same bytes.
    """
    on_cpu = jax.default_backend() == "cpu"
    x = jnp.ones(2**25 if on_cpu else 2**28, jnp.float32)
    return 2 * x.nbytes / seconds_per_call(jnp.negative, x)


def matmul_ceiling(dtype: jnp.dtype) -> float:
    """Measures the FLOP/s of a large product of square matrices of that type."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((side, side), dtype)
    return 2 * side**3 / seconds_per_call(jnp.matmul, x, x)


def row(seconds: float, moved: int, copy: float, **labels: Any) -> dict[str, Any]:
    """Makes one row of the report.

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


def report(rows: list[dict[str, Any]], copy: float) -> dict[str, Any]:
    """Makes the JSON object that a benchmark prints."""
    return {
        "device": device_name(),
        "jax": jax.__version__,
        "copy_gb_per_s": round(copy / 1e9, 2),
        "rows": rows,
    }


def format_report(report: dict[str, Any]) -> str:
    """Formats the report as a table."""
    rows = [list(report["rows"][0]), *(list(r.values()) for r in report["rows"])]
    cells = [["-" if value is None else str(value) for value in r] for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, r, widths)).rstrip() for r in cells]
    title = f"{report['device']}, copy {report['copy_gb_per_s']} GB/s"
    return "\n".join([title, *lines])


def max_error(
    label: str,
    function: Callable,
    arrays: Sequence[jax.Array],
    exact: Sequence[np.ndarray],
    allowed: float,
) -> float:
    """Computes the largest error of any result, relative to its largest value.

    Args:
      label: name of the comparison, for the error message.
      function: function of the arrays that returns any tree of arrays.
      arrays: arguments of the function.
      exact: expected results in float64; there may be more than the function returns.
      allowed: bound of the error.

    Returns:
      The error, to two digits.

    Raises:
      ArithmeticError: the error is beyond the bound, or not a number.
    """
    results = jax.tree.leaves(jax.jit(function)(*arrays))
    error = max(
        np.abs(np.asarray(result, np.float64) - truth).max() / np.abs(truth).max()
        for result, truth in zip(results, exact, strict=False)
    )
    if not error <= allowed:
        raise ArithmeticError(
            f"{label}: off by {error:.1e} of the largest value (allowed: {allowed})"
        )
    return float(f"{error:.1e}")
