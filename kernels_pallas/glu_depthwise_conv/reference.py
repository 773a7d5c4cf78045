"""The middle of Mix-FFN: SiLU, 3x3 depthwise convolution, gate. The plain form.

s = silu(x);   y = depthwise3x3(s) + bias;   a, g = split(y);   out = a silu(g)

Nothing here has a gradient written by hand, so every kind of differentiation works.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kernels_pallas.array_types import Array, Float


def glu_depthwise_conv(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
) -> Float[Array, "B H W C//2"]:
    """Runs the operation in x's dtype, convolving as the platform likes best."""

    def convolve(s, kernel):
        return jax.lax.platform_dependent(
            s, kernel, cpu=depthwise_conv_shifted, default=depthwise_conv_grouped
        )

    return gate_convolved(convolve, x, kernel, bias)


def gate_convolved(
    convolve: Callable[[Array, Array], Array],
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
) -> Float[Array, "B H W C//2"]:
    """Runs the operation with any depthwise convolution."""
    # In float32, so that the bias's gradient, a sum over all pixels, is too.
    y = convolve(jax.nn.silu(x), kernel).astype(jnp.float32) + bias.astype(jnp.float32)
    value, gate = jnp.split(y.astype(x.dtype), 2, axis=-1)
    return value * jax.nn.silu(gate)


def depthwise_conv_grouped(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C"]
) -> Float[Array, "B H W C"]:
    """Convolves each channel by itself, zero-padded: XLA's grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def depthwise_conv_shifted(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C"]
) -> Float[Array, "B H W C"]:
    """Convolves by nine shifted multiply-adds, which XLA fuses into one pass.

    On CPU about 27 times faster than the grouped convolution.
    """
    height, width = x.shape[1:3]
    padded = pad_image(x)
    out = jnp.zeros_like(x)
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + height, column : column + width]
            out = out + window * kernel[row, column]
    return out


def pad_image(x: Float[Array, "B H W C"]) -> Float[Array, "B H+2 W+2 C"]:
    """Adds a row and a column of zeros on every side.

    The barriers make it an array: fused into each of the nine windows, the padding
    and what comes before it would be computed nine times.
    """
    x = jax.lax.optimization_barrier(x)
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
