"""Times linear attention here: `python -m kernels_pallas.linear_attention.bench`.

Every form that the device can run is compared with float64 first, then timed: forward,
and forward with the gradient. On NVIDIA GPUs also what else one might call there:
cuDNN's and PyTorch's softmax attention, and a compiled linear attention in PyTorch.
Prints one JSON object. What `dispatch.PREFERRED` says must come from it.
"""

import functools
import importlib
import importlib.util
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas import bench_lib
from kernels_pallas.linear_attention.api import linear_attention

logger = logging.getLogger("kernels_pallas")

# (heads, tokens), heads of 32: nano's and 600m's on CPU; 600m's and 1600m's elsewhere.
CPU_CASES = [(2, 4096), (2, 16384), (36, 1024)]
ACCELERATOR_CASES = [
    (heads, tokens)
    for heads in (36, 70)
    for tokens in (1024, 4096, 16384, 65536, 262144)
]
# Softmax attention is O(N^2); beyond this it only takes long.
SOFTMAX_TOKENS = 65536
SIZE = 32
# Arrays that cross memory at least. Forward: q, k, v, output. The gradient besides: q,
# k, v and the output's gradient in, three gradients out.
ARRAYS = {"forward": 4, "forward and gradient": 11}
# Of the largest value. A form that is further off is not timed.
MAX_ERROR = {"float32": 2e-5, "bfloat16": 1e-2}


def bench() -> dict[str, Any]:
    """Measures everything; see the top of this file.

    Returns:
      {"device", "jax", "copy_gb_per_s", "rows": [{"form", "pass", "heads", "tokens",
      "dtype", "max_error", "ms", "gb_per_s", "fraction_of_copy"}]}. max_error is that
      against float64 at 1,024 tokens, relative to the largest value; null for other
      operations than this one.

    Raises:
      ArithmeticError: a form is further off than `MAX_ERROR`.
    """
    platform = jax.default_backend()
    dtype = "float32" if platform == "cpu" else "bfloat16"
    functions = {
        (form, name): function
        for form in ("reference", *({"tpu", "gpu"} & {platform}))
        for name, function in _passes(
            functools.partial(linear_attention, implementation=form)
        ).items()
    }
    errors = {
        key: _max_error(function, dtype, *key) for key, function in functions.items()
    }
    copy = bench_lib.copy_bandwidth()
    rows = []
    for heads, tokens in CPU_CASES if platform == "cpu" else ACCELERATOR_CASES:
        arrays = [jnp.asarray(x, dtype) for x in make_inputs(heads, tokens)]
        seconds = {
            key: bench_lib.seconds_per_call(function, *arrays)
            for key, function in functions.items()
        }
        if platform == "gpu":
            seconds |= _others_on_gpu(arrays)
        for (form, name), value in seconds.items():
            labels = {
                "form": form,
                "pass": name,
                "heads": heads,
                "tokens": tokens,
                "dtype": dtype,
                "max_error": errors.get((form, name)),
            }
            moved = ARRAYS[name] * arrays[0].nbytes
            rows.append(bench_lib.row(value, moved, copy, **labels))
            logger.info("%s", rows[-1])
    return bench_lib.report(rows, copy)


def _passes(function: Callable) -> dict[str, Callable]:
    def forward(q, k, v, grad):
        return function(q, k, v)

    def forward_and_gradient(q, k, v, grad):
        out, vjp = jax.vjp(function, q, k, v)
        return out, vjp(grad)

    return dict(zip(ARRAYS, (forward, forward_and_gradient), strict=True))


def make_inputs(heads, tokens):
    """Draws q, k, v and the output's gradient."""
    rng = np.random.default_rng(0)
    shape = (1, tokens, heads, SIZE)
    return [rng.standard_normal(shape, np.float32) for _ in range(4)]


def _max_error(function, dtype, form, name):
    """Largest error at 1,024 tokens, relative to the largest value."""
    arrays = [jnp.asarray(x, dtype) for x in make_inputs(2, 1024)]
    exact = _float64(*(np.asarray(x, np.float64) for x in arrays))
    label = f"linear attention, form {form!r}, {name}"
    return bench_lib.max_error(label, function, arrays, exact, MAX_ERROR[dtype])


def _float64(q, k, v, grad):
    """Output and gradients: every query against every key."""
    query, key = np.maximum(q, 0), np.maximum(k, 0)
    weight = np.einsum("bnhk,bmhk->bhnm", query, key)
    total = weight.sum(axis=-1, keepdims=True) + 1e-15
    out = np.einsum("bhnm,bmhl->bnhl", weight / total, v)
    dweight = np.einsum("bnhl,bmhl->bhnm", grad, v)
    dweight = (dweight - np.einsum("bnhl,bnhl->bhn", grad, out)[..., None]) / total
    dq = np.einsum("bhnm,bmhk->bnhk", dweight, key) * (q > 0)
    dk = np.einsum("bhnm,bnhk->bmhk", dweight, query) * (k > 0)
    dv = np.einsum("bhnm,bnhl->bmhl", weight / total, grad)
    return out, dq, dk, dv


def _others_on_gpu(arrays) -> dict[tuple[str, str], float]:
    """{(form, pass): seconds} of other operations on arrays of the same shape."""
    seconds = {}
    short = arrays[0].shape[1] <= SOFTMAX_TOKENS
    if short:
        cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
        for name, function in _passes(cudnn).items():
            seconds["cudnn softmax", name] = bench_lib.seconds_per_call(
                function, *arrays
            )
    if importlib.util.find_spec("torch") is None:
        logger.info("no torch here: its attentions are left out")
        return seconds
    torch = importlib.import_module("torch")
    forms = {"torch linear": torch.compile(_torch_linear_attention)}
    if short:
        forms["torch softmax"] = torch.nn.functional.scaled_dot_product_attention
    shape = arrays[0].swapaxes(1, 2).shape
    heads_first = [
        torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in arrays
    ]
    for form, function in forms.items():
        for name in ARRAYS:
            seconds[form, name] = _torch_seconds(torch, function, heads_first, name)
    return seconds


def _torch_linear_attention(q, k, v):
    """(B, H, N, K) each; float32 sums."""
    query, key = q.float().relu(), k.float().relu()
    state = key.transpose(-1, -2) @ v.float()
    total = query @ key.sum(dim=-2).unsqueeze(-1)
    return (query @ state / (total + 1e-15)).to(q.dtype)


def _torch_seconds(torch, function, arrays, name):
    *inputs, grad = arrays

    def call():
        out = function(*inputs)
        if name != "forward":
            torch.autograd.grad(out, inputs, grad)

    def timed(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    timed(3)  # Compiles.
    count = max(1, round(0.2 / timed(1)))
    return min(timed(count) for _ in range(3)) / count


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(json.dumps(bench()))
