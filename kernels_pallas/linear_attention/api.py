"""ReLU linear attention, O(N) in the number of tokens: the public functions.

B batch, N and M tokens, H heads, K head size. implementation chooses among the forms:
None (what was measured to be fastest on this kind of device: `dispatch.PREFERRED`),
"reference" (XLA; the only one through which forward-mode differentiation goes), "tpu"
or "gpu" (Pallas kernels, for input that this folder's README names).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp

from kernels_pallas import dispatch
from kernels_pallas.array_types import Array, Float
from kernels_pallas.linear_attention import reference, vjp

T = TypeVar("T")


def linear_attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    *,
    eps: float = 1e-15,
    floor: float = 0.0,
    implementation: str | None = None,
) -> Float[Array, "B N H K"]:
    """Attends every query to every key through a K x (K + 1) state per head.

    Features, products and both sums are float32 whatever the inputs are, and the
    result is cast back to q's type. A query whose features are all zero gives
    exactly 0, and gradients stay finite there because relu has slope 0 at 0.

    Args:
      q: queries, before the ReLU. As many as keys, or not.
      k: keys, before the ReLU.
      v: values.
      eps: added to the denominator (1e-15 as diffusers; official SANA 1e-8).
      floor: added to every feature. 0 is the paper; 1e-3 bounds the gradient of
        nearly dead rows, which otherwise reaches 3e10.
      implementation: see the top of this file.

    Returns:
      The attention's output, in q's dtype.

    Raises:
      ValueError: shapes that do not go together; integers; an unknown implementation.
      NotImplementedError: the implementation asked for does not take this input.
    """
    _check_state_inputs(k, v)
    _check_output_inputs(q, _state_shape(k))
    forms = _forms(reference.linear_attention, vjp.linear_attention, eps, floor)
    return dispatch.run("linear_attention", implementation, forms, q, k, v)


def linear_attention_qkv(
    qkv: Float[Array, "B N C"],
    heads: int,
    *,
    eps: float = 1e-15,
    floor: float = 0.0,
    implementation: str | None = None,
) -> Float[Array, "B N H K"]:
    """Computes `linear_attention` of queries, keys and values that are one array.

    The GPU kernels read them where they lie, so that no copies of the three are made.

    Args:
      qkv: queries, keys and values side by side, C = 3 H K, before the ReLU.
      heads: H.
      eps, floor, implementation: see `linear_attention`.

    Returns:
      The attention's output, in qkv's dtype.

    Raises:
      As `linear_attention`.
    """
    _check_floating(qkv)
    if qkv.ndim != 3 or qkv.shape[-1] % (3 * heads):
        raise ValueError(
            f"linear_attention: qkv must be (B, N, 3 H K) with H = {heads}, "
            f"got {qkv.shape}"
        )
    forms = _forms(
        reference.linear_attention_qkv, vjp.linear_attention_qkv, heads, eps, floor
    )
    # As large as the queries of `linear_attention`.
    size = qkv.size // 3
    return dispatch.run("linear_attention", implementation, forms, qkv, size=size)


def linear_attention_state(
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    *,
    floor: float = 0.0,
    implementation: str | None = None,
) -> Float[Array, "B H K K+1"]:
    """Sums up keys and values: the first half of `linear_attention`.

    The states of parts of the tokens add up to the state of all: over row bands of
    an image, over devices (one psum), over time.

    Args:
      k, v, floor, implementation: see `linear_attention`.

    Returns:
      float32; [..., :K] is the sum of phi(k)^T v, [..., K] that of phi(k).

    Raises:
      As `linear_attention`.
    """
    _check_state_inputs(k, v)
    forms = _forms(reference.linear_attention_state, vjp.linear_attention_state, floor)
    return dispatch.run("linear_attention", implementation, forms, k, v)


def linear_attention_output(
    q: Float[Array, "B N H K"],
    state: Float[Array, "B H K K+1"],
    *,
    eps: float = 1e-15,
    floor: float = 0.0,
    implementation: str | None = None,
) -> Float[Array, "B N H K"]:
    """Reads a state out: the second half of `linear_attention`.

    Args:
      q, eps, floor, implementation: see `linear_attention`.
      state: result of `linear_attention_state`, or the sum of several.

    Returns:
      The attention's output, in q's dtype.

    Raises:
      As `linear_attention`.
    """
    _check_output_inputs(q, state.shape)
    forms = _forms(
        reference.linear_attention_output, vjp.linear_attention_output, eps, floor
    )
    state = state.astype(jnp.float32)
    return dispatch.run("linear_attention", implementation, forms, q, state)


def _forms(
    plain: Callable[..., T], with_kernels: Callable[..., T], *settings: Any
) -> dict[str, Callable[..., T]]:
    """{implementation: function of the arrays}; settings come after the arrays."""

    def on_tpu(*arrays):
        from kernels_pallas.linear_attention import tpu

        return with_kernels(tpu, *arrays, *settings)

    def on_gpu(*arrays):
        from kernels_pallas.linear_attention import gpu

        return with_kernels(gpu, *arrays, *settings)

    def on_any(*arrays):
        return plain(*arrays, *settings)

    return {"reference": on_any, "tpu": on_tpu, "gpu": on_gpu}


def _check_state_inputs(k, v):
    _check_floating(k, v)
    if k.ndim != 4 or k.shape != v.shape:
        raise ValueError(
            "linear_attention: k and v must both be (B, N, H, K), got "
            f"{k.shape} and {v.shape}"
        )


def _check_output_inputs(q, state_shape):
    _check_floating(q)
    if q.ndim != 4 or state_shape != _state_shape(q):
        raise ValueError(
            f"linear_attention: q must be (B, N, H, K) with the B, H and K of the "
            f"state (B, H, K, K + 1), got {q.shape} and a state {state_shape}"
        )


def _check_floating(*arrays):
    for x in arrays:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"linear_attention: needs floating point, got {x.dtype}")


def _state_shape(x):
    batch, _, heads, size = x.shape
    return batch, heads, size, size + 1
