"""The middle of Mix-FFN: SiLU, 3x3 depthwise convolution, gate.

y = depthwise3x3(silu(x)) + bias;   a, g = split(y);   out = a * silu(g)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def depthwise_conv_shifted(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C"]
) -> Float[Array, "B H W C"]:
    """Zero-padded depthwise convolution as nine shifted multiply-adds.

    XLA fuses the nine terms into one pass over memory. On CPU this is the fast
    form: the grouped convolution below is about 27 times slower there. The gradient
    is written out, because transposing the nine slices costs XLA on CPU another
    factor of ten; forward-mode differentiation is therefore not available here.
    """
    height, width = x.shape[1:3]
    padded = _pad(x)
    out = jnp.zeros_like(x)
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + height, column : column + width]
            out = out + window * kernel[row, column]
    return out


def _shifted_forward(x, kernel):
    return depthwise_conv_shifted(x, kernel), (x, kernel)


def _shifted_backward(residual, cotangent):
    x, kernel = residual
    padded = _pad(x)

    def tap(_, index):
        # A loop over traced offsets: XLA does not vectorise reductions that have a
        # static slice fused into them.
        start = (0, index // 3, index % 3, 0)
        window = jax.lax.dynamic_slice(padded, start, x.shape)
        return None, jnp.sum(window * cotangent, axis=(0, 1, 2))

    _, taps = jax.lax.scan(tap, None, jnp.arange(9))
    grad_x = depthwise_conv_shifted(cotangent, kernel[::-1, ::-1])
    return grad_x, taps.reshape(kernel.shape)


depthwise_conv_shifted.defvjp(_shifted_forward, _shifted_backward)


def depthwise_conv_grouped(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C"]
) -> Float[Array, "B H W C"]:
    """The same as XLA's grouped convolution: the fast form on accelerators."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def glu_depthwise_conv(
    x: Float[Array, "B H W 2E"],
    kernel: Float[Array, "3 3 2E"],
    bias: Float[Array, "2E"],
) -> Float[Array, "B H W E"]:
    """Runs SiLU, the depthwise convolution and the gate, in x's dtype.

    Args:
      x: the expanded features, before their SiLU; 2E channels.
      kernel: depthwise 3x3 filters.
      bias: added after the convolution.

    Returns:
      First half of the channels times the SiLU of the second half.
    """
    y = jax.lax.platform_dependent(
        jax.nn.silu(x),
        kernel,
        cpu=depthwise_conv_shifted,
        default=depthwise_conv_grouped,
    )
    value, gate = jnp.split(y + bias, 2, axis=-1)
    return value * jax.nn.silu(gate)


def _pad(x):
    x = jax.lax.optimization_barrier(x)
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
