"""Times linear attention here: `python -m kernels_pallas.linear_attention.bench`.

Every form that the device can run is compared with float64 first, then timed: forward,
and forward with the gradient, of queries, keys and values in one array, as the networks
have them. On NVIDIA GPUs also what else one might call there:
cuDNN's and PyTorch's softmax attention, and a compiled linear attention in PyTorch.
Prints one JSON object. What `dispatch.PREFERRED` says must come from it.
"""

import functools
import importlib
import importlib.util
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas import bench_lib
from kernels_pallas.linear_attention.api import linear_attention_qkv

logger = logging.getLogger("kernels_pallas")

# (heads, tokens), heads of 32: nano's and 600m's on CPU; 600m's and 1600m's elsewhere.
CPU_CASES = [(2, 4096), (2, 16384), (36, 1024)]
ACCELERATOR_CASES = [
    (heads, tokens)
    for heads in (36, 70)
    for tokens in (1024, 4096, 16384, 65536, 262144)
]
# Softmax attention is O(N^2); beyond this it only takes long.
SOFTMAX_TOKENS = 16384
SIZE = 32
# Arrays that cross memory at least. Forward: q, k, v, output. The gradient besides: q,
# k, v and the output's gradient in, three gradients out.
ARRAYS = {"forward": 4, "forward and gradient": 11}
# Of the largest value. A form that is further off is not timed.
MAX_ERROR = {"float32": 2e-5, "bfloat16": 1e-2}
# Of a kernel in bfloat16 and beyond one rounding, see `bench_lib.max_error`.
# Without the second piece of a factor it is 4e-4 and more.
MAX_BEYOND_ROUNDING = 2**-12
# Heads times tokens whose results are compared with float64, about: all heads of a
# short sequence, a few of a long one.
COMPARED = 2**18


def bench() -> dict[str, Any]:
    """Measures everything; see the top of this file.

    Returns:
      {"device", "jax", "copy_gb_per_s", "rows": what `rows` and `other_rows` yield}.
    """
    copy = bench_lib.copy_bandwidth()
    return bench_lib.report([*rows(copy), *other_rows(copy)], copy)


def rows(
    copy: float, cases: Sequence[tuple[int, int]] | None = None
) -> Iterator[dict[str, Any]]:
    """Measures the forms of this operation row by row.

    Args:
      copy: bytes per second of a copy, for the fraction.
      cases: (heads, tokens); by default those of the platform.

    Yields:
      {"form", "pass", "heads", "tokens", "dtype", "max_error", "ms", "gb_per_s",
      "fraction_of_copy"}. max_error is that of the timed function on the timed arrays,
      see `max_error`. A form that fails, or is further off than `MAX_ERROR`, has
      "error" in place of the measurements.
    """
    for size in _default_cases() if cases is None else cases:
        for key in forms():
            yield row(copy, key, size)


def row(copy: float, key: tuple[str, str], size: tuple[int, int]) -> dict[str, Any]:
    """Measures a form; see `rows`.

    Args:
      copy: bytes per second of a copy.
      key: (form, pass).
      size: (heads, tokens).
    """
    dtype, functions = bench_lib.default_dtype(), forms()
    (form, name), (heads, tokens) = key, size
    return bench_lib.checked_row(
        lambda: max_error(dtype, functions, key, heads, tokens),
        functions[key],
        lambda: make_case(dtype, heads, tokens).arrays,
        ARRAYS[name],
        copy,
        **{"form": form, "pass": name, "heads": heads, "tokens": tokens},
        dtype=dtype,
    )


def other_rows(
    copy: float, cases: Sequence[tuple[int, int]] | None = None
) -> Iterator[dict[str, Any]]:
    """Measures what else one might call on an NVIDIA GPU; nothing elsewhere.

    Args:
      copy, cases: see `rows`.

    Yields:
      What `rows` yields, but no "max_error": softmax is another operation.
    """
    if jax.default_backend() != "gpu":
        return
    for heads, tokens in _default_cases() if cases is None else cases:
        inputs = make_inputs(heads, tokens)
        arrays = [jnp.asarray(x, jnp.bfloat16) for x in inputs]

        def measure(form, name, arrays=arrays):
            seconds = _OTHERS[form](arrays, name)
            return bench_lib.row(seconds, ARRAYS[name] * arrays[0].nbytes, copy)

        for form, name in itertools.product(_others(tokens), ARRAYS):
            labels = {"form": form, "pass": name, "heads": heads, "tokens": tokens}
            row = bench_lib.attempt(
                functools.partial(measure, form, name), **labels, dtype="bfloat16"
            )
            logger.info("%s", row)
            yield row


def _default_cases() -> list[tuple[int, int]]:
    return CPU_CASES if jax.default_backend() == "cpu" else ACCELERATOR_CASES


def forms() -> dict[tuple[str, str], Callable]:
    """Maps (form, pass) to functions of (qkv, grad) that run here, kernels first."""
    return {
        (form, name): function
        for form in (*({"tpu", "gpu"} & {jax.default_backend()}), "reference")
        for name, function in _passes(functools.partial(_attend, form)).items()
    }


def _attend(form, qkv):
    heads = qkv.shape[-1] // (3 * SIZE)
    return linear_attention_qkv(qkv, heads, implementation=form)


def _passes(function: Callable) -> dict[str, Callable]:
    def forward(*arrays):
        return function(*arrays[:-1])

    def forward_and_gradient(*arrays):
        *inputs, grad = arrays
        out, vjp = jax.vjp(function, *inputs)
        return out, vjp(grad)

    return dict(zip(ARRAYS, (forward, forward_and_gradient), strict=True))


def make_inputs(heads, tokens):
    """Draws q, k, v and the output's gradient."""
    rng = np.random.default_rng(0)
    shape = (1, tokens, heads, SIZE)
    return [rng.standard_normal(shape, np.float32) for _ in range(4)]


class Case(NamedTuple):
    """The arrays of one size, and what should come out of them.

    Attributes:
      arrays: q, k and v side by side, (1, N, 3 H K), and the output's gradient,
        (1, N, H, K).
      compared: the heads whose results are compared with float64.
      exact: their output, (1, N, h, K), and the gradients of q, k and v,
        (1, N, 3, h, K), float64.
    """

    arrays: list[jax.Array]
    compared: np.ndarray
    exact: tuple[np.ndarray, ...]

    def part(self, result: jax.Array) -> jax.Array:
        """Takes the compared heads of the output, or of its gradient."""
        if result.ndim == 4:
            return result[:, :, self.compared]
        apart = result.reshape(*result.shape[:2], 3, -1, SIZE)
        return apart[:, :, :, self.compared]


# Every form and pass is compared with it; several sizes would fill the memory.
@functools.lru_cache(maxsize=1)
def make_case(dtype: str, heads: int, tokens: int) -> Case:
    """Makes the inputs of a size in that type, and the exact results."""
    arrays = [jnp.asarray(x, dtype) for x in make_inputs(heads, tokens)]
    count = min(heads, max(2, COMPARED // tokens))
    compared = np.unique(np.linspace(0, heads - 1, count).round().astype(int))
    out, *gradients = _float64(
        *(np.asarray(x[:, :, compared], np.float64) for x in arrays)
    )
    *qkv, grad = arrays
    whole = jnp.concatenate([x.reshape(1, tokens, -1) for x in qkv], axis=-1)
    return Case([whole, grad], compared, (out, np.stack(gradients, axis=2)))


def max_error(
    dtype: str,
    functions: dict[tuple[str, str], Callable],
    key: tuple[str, str],
    heads: int,
    tokens: int,
) -> float:
    """Computes a form's largest error against float64, relative to the largest value.

    The form computes all heads, as when it is timed: how a kernel divides its work may
    depend on their number. Of a long sequence some of them are compared.

    Args:
      dtype: of the arrays.
      functions: see `forms`.
      key: (form, pass).
      heads, tokens: the size.

    Returns:
      The error, to two digits.

    Raises:
      ArithmeticError: it is beyond `MAX_ERROR` or `MAX_BEYOND_ROUNDING`.
    """
    form, name = key
    is_kernel = bench_lib.is_rounded_once(form, dtype)
    case = make_case(dtype, heads, tokens)
    return bench_lib.max_error(
        f"linear attention, form {form!r}, {name}",
        functions[key],
        case.arrays,
        case.exact,
        MAX_ERROR[dtype],
        part=case.part,
        beyond_rounding=MAX_BEYOND_ROUNDING if is_kernel else None,
    )


def _float64(q, k, v, grad):
    """Output and gradients, (B, N, H, K) each, at a cost of O(N); see README.md.

    The tests compare it with every query against every key.
    """
    q, k, v, grad = (x.swapaxes(1, 2) for x in (q, k, v, grad))
    query, key = np.maximum(q, 0), np.maximum(k, 0)
    products, sums = key.swapaxes(2, 3) @ v, key.sum(axis=2)[..., None]
    total = query @ sums + 1e-15
    out = query @ products / total
    a = grad / total
    c = -np.sum(a * out, axis=-1, keepdims=True)
    dq = (a @ products.swapaxes(2, 3) + c * sums.swapaxes(2, 3)) * (q > 0)
    dproducts = query.swapaxes(2, 3) @ a
    dk = (v @ dproducts.swapaxes(2, 3) + np.sum(c * query, 2)[:, :, None]) * (k > 0)
    dv = key @ dproducts
    out, dq, dk, dv = (x.swapaxes(1, 2) for x in (out, dq, dk, dv))
    return out, dq, dk, dv


def _others(tokens: int) -> list[str]:
    """Names what else one might call on a GPU."""
    short = tokens <= SOFTMAX_TOKENS
    names = ["cudnn softmax"] if short else []
    if importlib.util.find_spec("torch") is None:
        logger.info("no torch here: its attentions are left out")
        return names
    return [*names, "torch linear", *(["torch softmax"] if short else [])]


def _cudnn_seconds(arrays, name):
    cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return bench_lib.seconds_per_call(_passes(cudnn)[name], *arrays)


def _torch_linear_attention(q, k, v):
    """(B, H, N, K) each; float32 sums."""
    query, key = q.float().relu(), k.float().relu()
    state = key.transpose(-1, -2) @ v.float()
    total = query @ key.sum(dim=-2).unsqueeze(-1)
    return (query @ state / (total + 1e-15)).to(q.dtype)


def _torch_seconds(form, arrays, name):
    """Like `bench_lib.seconds_per_call`, but every call is from Python.

    That counts where a call takes less than its start, tens of microseconds.
    """
    torch = importlib.import_module("torch")
    function = {
        "torch linear": torch.compile(_torch_linear_attention),
        "torch softmax": torch.nn.functional.scaled_dot_product_attention,
    }[form]
    shape, with_gradient = arrays[0].swapaxes(1, 2).shape, name != "forward"
    like = {"device": "cuda", "dtype": torch.bfloat16}
    inputs = [torch.randn(shape, **like, requires_grad=with_gradient) for _ in "qkv"]
    grad = torch.randn(shape, **like)

    def call():
        out = function(*inputs)
        return torch.autograd.grad(out, inputs, grad) if with_gradient else out

    # Without a gradient nothing is kept for one.
    with torch.set_grad_enabled(with_gradient):
        return bench_lib.best_seconds(call, lambda _: torch.cuda.synchronize())


# Name of another operation -> function (arrays of the same shape, pass) -> seconds.
_OTHERS: dict[str, Callable] = {
    "cudnn softmax": _cudnn_seconds,
    "torch linear": functools.partial(_torch_seconds, "torch linear"),
    "torch softmax": functools.partial(_torch_seconds, "torch softmax"),
}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(json.dumps(bench()))
