"""Times the operation here: `python -m kernels_pallas.glu_depthwise_conv.bench`.

Every form that the device can run is compared with float64 first, then timed: forward,
and forward with the gradient. The reference is split into its two convolutions, nine
shifted multiply-adds and XLA's grouped convolution, of which each platform gets one.
All add the input's bias, as the networks have it.
Prints one JSON object. What `dispatch.PREFERRED` says must come from it.
"""

import functools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas import bench_lib
from kernels_pallas.glu_depthwise_conv import reference
from kernels_pallas.glu_depthwise_conv.api import glu_depthwise_conv

# (E, rows and columns): nano's and 600m's on CPU, where the grouped convolution's
# gradient takes seconds even so; 600m's and 1600m's elsewhere.
CPU_CASES = [(128, 64), (2880, 16)]
ACCELERATOR_CASES = [
    (expanded, side) for expanded in (2880, 5600) for side in (32, 64, 128, 256)
]
# What must cross memory at least, in arrays of the output's size. Forward: x is two.
# The gradient besides: x and the output's gradient in, x's gradient out.
ARRAYS = {"forward": 3, "forward and gradient": 8}
# Of the largest value. A form that is further off is not timed.
MAX_ERROR = {"float32": 2e-5, "bfloat16": 5e-2}
# Of a kernel in bfloat16 and beyond one rounding, see `bench_lib.max_error`.
# tanh.approx makes a part of it, and the gradient of the input's bias, which sums what
# was rounded.
MAX_BEYOND_ROUNDING = 2**-8
# Values of the output that are compared with float64, about: half of the channels of a
# small image, a few of a large one.
COMPARED = 2**21


def bench() -> dict[str, Any]:
    """Measures everything; see the top of this file.

    Returns:
      {"device", "jax", "copy_gb_per_s", "rows": what `rows` yields}.
    """
    copy = bench_lib.copy_bandwidth()
    return bench_lib.report(list(rows(copy)), copy)


def rows(
    copy: float, cases: Sequence[tuple[int, int]] | None = None
) -> Iterator[dict[str, Any]]:
    """Measures row by row.

    Args:
      copy: bytes per second of a copy, for the fraction.
      cases: (E, rows and columns); by default those of the platform.

    Yields:
      {"form", "pass", "expanded", "height", "width", "dtype", "max_error", "ms",
      "gb_per_s", "fraction_of_copy"}. max_error is that of the timed function on the
      timed arrays, see `max_error`. A form that fails, or is further off than
      `MAX_ERROR`, has "error" in place of the measurements.
    """
    if cases is None:
        on_cpu = jax.default_backend() == "cpu"
        cases = CPU_CASES if on_cpu else ACCELERATOR_CASES
    for size in cases:
        for key in forms():
            yield row(copy, key, size)


def row(copy: float, key: tuple[str, str], size: tuple[int, int]) -> dict[str, Any]:
    """Measures a form; see `rows`.

    Args:
      copy: bytes per second of a copy.
      key: (form, pass).
      size: (E, rows and columns).
    """
    dtype, functions = bench_lib.default_dtype(), forms()
    (form, name), (expanded, side) = key, size
    return bench_lib.checked_row(
        lambda: max_error(dtype, functions, key, expanded, side, side),
        functions[key],
        lambda: make_case(dtype, expanded, side, side).arrays,
        ARRAYS[name],
        copy,
        **{"form": form, "pass": name, "expanded": expanded},
        **{"height": side, "width": side, "dtype": dtype},
    )


def forms() -> dict[tuple[str, str], Callable]:
    """Maps (form, pass) to functions of (x, kernel, bias, input_bias, grad).

    Those that run here, the kernel first.
    """
    platform = jax.default_backend()
    operations: dict[str, Callable] = {
        form: functools.partial(glu_depthwise_conv, implementation=form)
        for form in (platform, "shifted")
    }
    operations["grouped"] = _grouped
    return {
        (form, name): function
        for form, operation in operations.items()
        for name, function in _passes(operation).items()
    }


def _grouped(x, kernel, bias, input_bias):
    x = (x.astype(jnp.float32) + input_bias.astype(jnp.float32)).astype(x.dtype)
    convolve = reference.depthwise_conv_grouped
    return reference.gate_convolved(convolve, x, kernel, bias)


def _passes(operation: Callable) -> dict[str, Callable]:
    def forward(*arrays):
        return operation(*arrays[:-1])

    def forward_and_gradient(*arrays):
        *inputs, grad = arrays
        out, vjp = jax.vjp(operation, *inputs)
        return out, vjp(grad)

    return dict(zip(ARRAYS, (forward, forward_and_gradient), strict=True))


def make_inputs(height, width, expanded):
    """Draws x, kernel, bias, the input's bias and the output's gradient."""
    rng = np.random.default_rng(0)
    channels = 2 * expanded
    shapes = (
        (1, height, width, channels),
        (3, 3, channels),
        (channels,),
        (channels,),
        (1, height, width, expanded),
    )
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


class Case(NamedTuple):
    """The arrays of one size, and what should come out of them.

    Attributes:
      arrays: x, kernel, bias, the input's bias and the output's gradient.
      compared: the channels of the output, of E, that are compared with float64.
      exact: in float64 these channels of the output, and what belongs to them of the
        gradients of x, kernel and both biases: the values' channels, then the gates'.
    """

    arrays: list[jax.Array]
    compared: np.ndarray
    exact: tuple[np.ndarray, ...]

    def part(self, array: jax.Array) -> jax.Array:
        """Takes the compared channels of an array whose last axis is E or 2 E."""
        expanded = self.arrays[-1].shape[-1]
        halves = range(0, array.shape[-1], expanded)
        return array[..., np.concatenate([self.compared + first for first in halves])]


# Every form and pass is compared with it; several sizes would fill the memory.
@functools.lru_cache(maxsize=1)
def make_case(dtype: str, expanded: int, height: int, width: int) -> Case:
    """Makes the inputs of a size in that type, and the exact results."""
    arrays = [jnp.asarray(a, dtype) for a in make_inputs(height, width, expanded)]
    count = min(expanded, max(2, COMPARED // (height * width)))
    compared = np.unique(np.linspace(0, expanded - 1, count).round().astype(int))
    case = Case(arrays, compared, ())
    exact = _float64(*(np.asarray(case.part(a), np.float64) for a in arrays))
    return case._replace(exact=exact)


def max_error(
    dtype: str,
    functions: dict[tuple[str, str], Callable],
    key: tuple[str, str],
    expanded: int,
    height: int,
    width: int,
) -> float:
    """Computes a form's largest error against float64, relative to the largest value.

    The form computes all channels, as when it is timed: how a kernel divides its work
    may depend on their number. Of a large image some of them are compared.

    Args:
      dtype: of the arrays.
      functions: see `forms`.
      key: (form, pass).
      expanded, height, width: the size.

    Returns:
      The error, to two digits.

    Raises:
      ArithmeticError: it is beyond `MAX_ERROR` or `MAX_BEYOND_ROUNDING`.
    """
    form, name = key
    is_kernel = bench_lib.is_rounded_once(form, dtype)
    case = make_case(dtype, expanded, height, width)
    return bench_lib.max_error(
        f"glu_depthwise_conv, form {form!r}, {name}",
        functions[key],
        case.arrays,
        case.exact,
        MAX_ERROR[dtype],
        part=case.part,
        beyond_rounding=MAX_BEYOND_ROUNDING if is_kernel else None,
    )


def _float64(x, kernel, bias, input_bias, grad):
    """The output, and the gradients of x, kernel and both biases."""
    x = x + input_bias
    sigmoid = 1 / (1 + np.exp(-x))
    windows = _windows(x * sigmoid)
    y = np.einsum("tbhwc,tc->bhwc", windows, kernel.reshape(9, -1)) + bias
    value, gate = np.split(y, 2, axis=-1)
    gate_sigmoid = 1 / (1 + np.exp(-gate))
    grad_y = np.concatenate(
        [
            grad * gate * gate_sigmoid,
            grad * value * gate_sigmoid * (1 + gate * (1 - gate_sigmoid)),
        ],
        axis=-1,
    )
    grad_kernel = np.einsum("tbhwc,bhwc->tc", windows, grad_y).reshape(kernel.shape)
    flipped = kernel.reshape(9, -1)[::-1]
    grad_silu = np.einsum("tbhwc,tc->bhwc", _windows(grad_y), flipped)
    grad_x = grad_silu * sigmoid * (1 + x * (1 - sigmoid))
    sums = (gradient.sum((0, 1, 2)) for gradient in (grad_y, grad_x))
    return value * gate * gate_sigmoid, grad_x, grad_kernel, *sums


def _windows(x):
    """Makes what each of the nine taps reads: [9, B, H, W, C]."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.stack(
        [
            padded[:, row : row + height, column : column + width]
            for row in range(3)
            for column in range(3)
        ]
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(json.dumps(bench()))
