"""A convolution whose gradients are as fast inside a loop as outside, on CPU too.

Inside lax.scan XLA on CPU computes both gradients of a convolution element by element:
that of the kernel about a hundred times slower than outside, that of the input about
ten times. Experts and microbatches are such loops. What XLA does well everywhere is the
forward convolution and the product of matrices, and both gradients can be had from
these; on accelerators XLA's own gradients remain.
"""

import functools

import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "P Q I O"],
    stride: int = 1,
    padding: int = 1,
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "B h w O"]:
    """Convolves images, in x's dtype.

    Can be differentiated in reverse mode, and that gradient in forward mode (Hessian
    times vector); forward mode alone needs `convolve_plain`, which is the same.

    Args:
      x: images.
      kernel: filters, of x's dtype.
      stride: step in rows and columns.
      padding: zeros around the image on each side, fewer than the kernel's sides.
      precision: precision of the products, those of the gradients included.
    """
    return convolve_plain(x, kernel, stride, padding, precision)


def convolve_plain(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "P Q I O"],
    stride: int = 1,
    padding: int = 1,
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "B h w O"]:
    """Convolves as `convolve` does, with XLA's own gradients."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=_LAYOUT,
        precision=precision,
    )


def _forward(x, kernel, *how):
    return convolve_plain(x, kernel, *how), (x, kernel)


def _backward(stride, padding, precision, residual, cotangent):
    def as_xla(x, kernel, cotangent):
        def plain(x, kernel):
            return convolve_plain(x, kernel, stride, padding, precision)

        return jax.vjp(plain, x, kernel)[1](cotangent)

    def on_cpu(x, kernel, cotangent):
        if stride == 1:
            return (
                _gradient_of_input(kernel, cotangent, padding),
                _gradient_of_kernel(x, cotangent, padding),
            )

        def same(x, kernel):
            return _without_stride(x, kernel, stride, padding)

        return jax.vjp(same, x, kernel)[1](cotangent)

    return jax.lax.platform_dependent(*residual, cotangent, cpu=on_cpu, default=as_xla)


convolve.defvjp(_forward, _backward)


def _gradient_of_input(kernel, cotangent, padding):
    """A convolution with the kernel turned round, of stride 1."""
    # The barrier makes it an array: XLA would fold the turn into the convolution, which
    # is then none that it knows how to compute fast.
    turned = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    rows, columns = (side - 1 - padding for side in kernel.shape[:2])
    return jax.lax.conv_general_dilated(
        cotangent,
        turned,
        (1, 1),
        ((rows, rows), (columns, columns)),
        dimension_numbers=_LAYOUT,
    )


def _gradient_of_kernel(x, cotangent, padding):
    """A convolution with the cotangent as its kernel, channels as its batch."""
    # The barriers make them arrays: left to itself XLA keeps them as they lie, which is
    # no order that it knows how to convolve fast.
    images = jax.lax.optimization_barrier(x.transpose(3, 1, 2, 0))
    kernels = jax.lax.optimization_barrier(cotangent.transpose(1, 2, 0, 3))
    gradient = convolve_plain(images, kernels, 1, padding)
    return gradient.transpose(1, 2, 0, 3)


def _without_stride(x, kernel, stride, padding):
    """The same with stride 1: stride x stride pixels are one with more channels."""
    sides = [
        (size + 2 * padding - length) // stride + -(-length // stride)
        for size, length in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    ]
    # Some pixels on the far side may be in no window; then the padding is negative.
    far = [
        stride * side - size - padding
        for side, size in zip(sides, x.shape[1:3], strict=True)
    ]
    zero = jnp.zeros([], x.dtype)
    around = [(0, 0, 0), *((padding, after, 0) for after in far), (0, 0, 0)]
    x = jax.lax.pad(x, zero, around)
    more = [-length % stride for length in kernel.shape[:2]]
    kernel = jnp.pad(kernel, (*((0, after) for after in more), (0, 0), (0, 0)))

    batch, _, _, inputs = x.shape
    x = x.reshape(batch, sides[0], stride, sides[1], stride, inputs)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *sides, -1)
    rows, columns = (length // stride for length in kernel.shape[:2])
    kernel = kernel.reshape(rows, stride, columns, stride, inputs, -1)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(rows, columns, stride**2 * inputs, -1)
    return convolve(x, kernel, 1, 0)
