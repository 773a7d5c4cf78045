"""What the TPU and the GPU kernel share: what is saved for the gradient, the weights.

The gradient's derivation stands in README.md.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from kernels_pallas.array_types import Array, Float


def with_gradient(forward: Callable, backward: Callable) -> Callable:
    """Makes a differentiable function of a forward and a gradient kernel.

    Only the inputs are kept for the gradient: SiLU and convolution are computed a
    second time there, which costs less than writing and reading y.

    Args:
      forward: (x, kernel, bias) -> out.
      backward: (x, kernel, bias, cotangent of out) -> gradients of x, kernel, bias.

    Returns:
      `forward`, in reverse mode differentiable by `backward`.
    """
    function = jax.custom_vjp(forward)
    function.defvjp(
        lambda *inputs: (forward(*inputs), inputs),
        lambda inputs, cotangent: backward(*inputs, cotangent),
    )
    return function


def pack_weights(
    kernel: Float[Array, "3 3 C"], biases: Sequence[Float[Array, "C"]]
) -> Float[Array, "2 n E"]:
    """Stacks nine taps and the biases, for the value and for the gate, in float32."""
    rows = [kernel.reshape(9, -1), *(bias[None] for bias in biases)]
    stacked = jnp.concatenate([row.astype(jnp.float32) for row in rows])
    return stacked.reshape(len(stacked), 2, -1).swapaxes(0, 1)


def unpack_weights(
    weights: Float[Array, "2 10 E"],
) -> tuple[Float[Array, "3 3 C"], Float[Array, "C"]]:
    """Inverts `pack_weights`, for the gradients."""
    rows = weights.swapaxes(0, 1).reshape(10, -1)
    return rows[:9].reshape(3, 3, -1), rows[9]


def silu_slope(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the derivative of SiLU."""
    sigmoid = jax.nn.sigmoid(x)
    return sigmoid * (1 + x * (1 - sigmoid))
