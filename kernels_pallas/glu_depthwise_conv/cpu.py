"""The form for CPU: the plain one, with the convolution's gradient written by hand.

Transposing the nine slices of `depthwise_conv_shifted` costs XLA on CPU a factor of
ten. Only the convolution's gradient is by hand, since XLA does the rest well; the
price is that forward-mode differentiation is not available here.
"""

import jax
import jax.numpy as jnp

from kernels_pallas.array_types import Array, Float
from kernels_pallas.glu_depthwise_conv import reference


def glu_depthwise_conv(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
) -> Float[Array, "B H W C//2"]:
    """Runs the operation in x's dtype."""
    return reference.gate_convolved(depthwise_conv, x, kernel, bias)


@jax.custom_vjp
def depthwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C"]
) -> Float[Array, "B H W C"]:
    """Computes a zero-padded depthwise convolution with a fast gradient."""
    return reference.depthwise_conv_shifted(x, kernel)


def _forward(x, kernel):
    return depthwise_conv(x, kernel), (x, kernel)


def _backward(residual, cotangent):
    x, kernel = residual
    padded = reference.pad_image(x)

    def tap(_, index):
        # A loop over traced offsets: XLA does not vectorise reductions that have a
        # static slice fused into them.
        start = (0, index // 3, index % 3, 0)
        window = jax.lax.dynamic_slice(padded, start, x.shape)
        return None, jnp.sum(window * cotangent, axis=(0, 1, 2))

    _, taps = jax.lax.scan(tap, None, jnp.arange(9))
    grad_x = depthwise_conv(cotangent, kernel[::-1, ::-1])
    return grad_x, taps.reshape(kernel.shape)


depthwise_conv.defvjp(_forward, _backward)
