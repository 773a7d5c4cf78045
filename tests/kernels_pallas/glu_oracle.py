"""The gated depthwise convolution and its gradient as loops, in float64 numpy."""

import numpy as np
from scipy.special import expit

from kernels_pallas.testing import float64


def silu(x):
    return x * expit(x)


def silu_slope(x):
    return expit(x) * (1 + x * expit(-x))


def taps(height, width):
    """(output row, column, kernel row, column, input row, column), inside only."""
    for i in range(height):
        for j in range(width):
            for di in range(3):
                for dj in range(3):
                    p, q = i + di - 1, j + dj - 1
                    if 0 <= p < height and 0 <= q < width:
                        yield i, j, di, dj, p, q


def conv(x, kernel):
    x, kernel = float64(x, kernel)
    out = np.zeros_like(x)
    for i, j, di, dj, p, q in taps(*x.shape[1:3]):
        out[:, i, j] += kernel[di, dj] * x[:, p, q]
    return out


def conv_gradients(x, kernel, cotangent):
    x, kernel, cotangent = float64(x, kernel, cotangent)
    grad_x, grad_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for i, j, di, dj, p, q in taps(*x.shape[1:3]):
        grad_x[:, p, q] += kernel[di, dj] * cotangent[:, i, j]
        grad_kernel[di, dj] += (x[:, p, q] * cotangent[:, i, j]).sum(axis=0)
    return grad_x, grad_kernel


def glu(x, kernel, bias):
    """a * silu(g): the first half of the channels is the value."""
    x, kernel, bias = float64(x, kernel, bias)
    value, gate = np.split(conv(silu(x), kernel) + bias, 2, axis=-1)
    return value * silu(gate)


def glu_gradients(x, kernel, bias, cotangent):
    x, kernel, bias, cotangent = float64(x, kernel, bias, cotangent)
    value, gate = np.split(conv(silu(x), kernel) + bias, 2, axis=-1)
    grad_y = np.concatenate(
        [cotangent * silu(gate), cotangent * value * silu_slope(gate)], axis=-1
    )
    grad_silu, grad_kernel = conv_gradients(silu(x), kernel, grad_y)
    return grad_silu * silu_slope(x), grad_kernel, grad_y.sum(axis=(0, 1, 2))
