"""SiLU, depthwise convolution and gate against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import glu_depthwise_conv
from kernels_pallas.glu_depthwise_conv.reference import (
    depthwise_conv_grouped,
    depthwise_conv_shifted,
)

FORMS = [depthwise_conv_shifted, depthwise_conv_grouped]
# B, H, W, C, all different; and images thinner than the kernel.
SIZES = [(2, 4, 5, 6), (3, 1, 5, 2), (2, 5, 1, 4), (1, 1, 1, 2), (1, 2, 3, 4)]


def inputs(sizes, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(sizes).astype(np.float32)
    kernel = rng.standard_normal((3, 3, sizes[-1])).astype(np.float32)
    cotangent = rng.standard_normal(sizes).astype(np.float32)
    return x, kernel, cotangent


def taps(height, width):
    """(output row, column, kernel row, column, input row, column), inside only."""
    for i in range(height):
        for j in range(width):
            for di in range(3):
                for dj in range(3):
                    p, q = i + di - 1, j + dj - 1
                    if 0 <= p < height and 0 <= q < width:
                        yield i, j, di, dj, p, q


def naive_conv(x, kernel):
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    out = np.zeros_like(x)
    for i, j, di, dj, p, q in taps(*x.shape[1:3]):
        out[:, i, j] += kernel[di, dj] * x[:, p, q]
    return out


def naive_conv_gradients(x, kernel, cotangent):
    x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    grad_x, grad_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for i, j, di, dj, p, q in taps(*x.shape[1:3]):
        grad_x[:, p, q] += kernel[di, dj] * cotangent[:, i, j]
        grad_kernel[di, dj] += (x[:, p, q] * cotangent[:, i, j]).sum(axis=0)
    return grad_x, grad_kernel


def naive_silu(x):
    return x / (1 + np.exp(-x))


def naive_glu(x, kernel, bias):
    """a * silu(g): the first half of the channels is the value."""
    y = naive_conv(naive_silu(np.asarray(x, np.float64)), kernel) + bias
    half = x.shape[-1] // 2
    return y[..., :half] * naive_silu(y[..., half:])


def close(actual, expected, tolerance=2e-6):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * scale
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_convolution_equals_the_loops(form, sizes):
    x, kernel, _ = inputs(sizes)
    close(form(x, kernel), naive_conv(x, kernel))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_equal_the_loops(form, sizes):
    x, kernel, cotangent = inputs(sizes)
    _, vjp = jax.vjp(form, x, kernel)
    expected = naive_conv_gradients(x, kernel, cotangent)
    for actual, reference in zip(vjp(cotangent), expected, strict=True):
        assert actual.shape == reference.shape
        close(actual, reference)


@pytest.mark.parametrize("sizes", SIZES)
def test_glu_equals_the_loops(sizes):
    x, kernel, _ = inputs(sizes)
    bias = np.random.default_rng(1).standard_normal(sizes[-1]).astype(np.float32)
    actual = jax.jit(glu_depthwise_conv)(x, kernel, bias)
    assert actual.shape == (*sizes[:-1], sizes[-1] // 2)
    close(actual, naive_glu(x, kernel, bias), tolerance=4e-6)


def test_the_first_half_is_the_value_the_second_the_gate():
    x = np.zeros((1, 1, 1, 2), np.float32)
    kernel = np.zeros((3, 3, 2), np.float32)
    out = glu_depthwise_conv(x, kernel, np.array([3.0, 1.0], np.float32))
    assert float(out[0, 0, 0, 0]) == pytest.approx(3 / (1 + np.exp(-1.0)), rel=1e-6)


def test_glu_gradients_equal_finite_differences():
    sizes = (2, 3, 4, 6)
    x, kernel, _ = inputs(sizes)
    rng = np.random.default_rng(2)
    bias = rng.standard_normal(6).astype(np.float32)
    weight = rng.standard_normal((2, 3, 4, 3)).astype(np.float32)
    arrays = (x, kernel, bias)

    def loss(*args):
        return jnp.sum(weight * glu_depthwise_conv(*args))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
    for i, gradient in enumerate(gradients):
        direction = rng.standard_normal(arrays[i].shape)
        values = []
        for sign in (1, -1):
            moved = [np.asarray(a, np.float64) for a in arrays]
            moved[i] = moved[i] + sign * 1e-6 * direction
            values.append(np.sum(weight * naive_glu(*moved)))
        expected = (values[0] - values[1]) / 2e-6
        actual = np.sum(np.asarray(gradient, np.float64) * direction)
        assert actual == pytest.approx(expected, rel=1e-5)


def test_bfloat16_stays_bfloat16_and_close():
    x, kernel, _ = inputs((2, 4, 5, 6))
    bias = np.zeros(6)
    args = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernel, bias)]
    actual = jax.jit(glu_depthwise_conv)(*args)
    assert actual.dtype == jnp.bfloat16
    expected = naive_glu(*(np.asarray(a, np.float64) for a in args))
    # Nine terms added in bfloat16, up to 2^-8 each; the errors are not all one way.
    close(actual, expected, tolerance=5 * 2**-8)


def test_experts_axis():
    """vmap over stacked kernels and inputs, forward and gradients, as a loop."""
    experts, sizes = 3, (2, 3, 4, 6)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((experts, *sizes)).astype(np.float32)
    kernel = rng.standard_normal((experts, 3, 3, 6)).astype(np.float32)
    bias = rng.standard_normal((experts, 6)).astype(np.float32)

    def loss(*args):
        out = glu_depthwise_conv(*args)
        return jnp.sum(out**2), out

    grad = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    gradients, out = jax.jit(jax.vmap(grad))(x, kernel, bias)
    single = jax.jit(grad)
    for i in range(experts):
        expected_gradients, expected = single(x[i], kernel[i], bias[i])
        close(out[i], np.asarray(expected))
        for actual, reference in zip(gradients, expected_gradients, strict=True):
            close(actual[i], np.asarray(reference), tolerance=1e-5)
