"""The convolution's gradients against lax's own, in float64 and inside loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearsr_jax.core.convolution import convolve, convolve_plain

# (image, kernel, stride, padding): sides all different; AlexNet's first layer, whose
# last pixels are in no window; a stride that leaves pixels over; no padding; one pixel.
CASES = [
    ((2, 6, 7, 3), (3, 3, 3, 4), 1, 1),
    ((1, 7, 9, 2), (5, 5, 2, 3), 1, 2),
    ((2, 40, 39, 3), (11, 11, 3, 2), 4, 2),
    ((1, 8, 6, 3), (3, 3, 3, 5), 2, 1),
    ((1, 9, 7, 3), (3, 3, 3, 5), 2, 1),
    ((2, 5, 4, 3), (2, 3, 3, 2), 1, 0),
    ((2, 5, 4, 3), (1, 1, 3, 2), 1, 0),
    ((1, 1, 1, 2), (3, 3, 2, 2), 1, 1),
]


def draw(image, kernel, stride, padding):
    rng = np.random.default_rng(0)
    x, k = rng.standard_normal(image), rng.standard_normal(kernel)
    shape = jax.eval_shape(
        functools.partial(convolve_plain, stride=stride, padding=padding), x, k
    ).shape
    return x, k, rng.standard_normal(shape)


def gradients(function, x, kernel, cotangent):
    value, vjp = jax.vjp(function, x, kernel)
    return value, *vjp(cotangent)


def both(case):
    *_, stride, padding = case
    return (
        functools.partial(f, stride=stride, padding=padding)
        for f in (convolve, convolve_plain)
    )


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_lax(case):
    # jax adds this name at run time, where no checker sees it.
    with jax.enable_x64(True):
        ours, plain = both(case)
        arrays = [jnp.asarray(a) for a in draw(*case)]
        assert arrays[0].dtype == jnp.float64
        for actual, expected in zip(
            gradients(ours, *arrays), gradients(plain, *arrays), strict=True
        ):
            assert actual.dtype == expected.dtype
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES[:3])
def test_hessian_times_vector(case):
    """Batch sharpness differentiates the gradient in forward mode."""
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in draw(*case)]

        def along(function):
            def gradient(x, kernel):
                loss = lambda *a: jnp.sum(jnp.tanh(function(*a)))  # noqa: E731
                return jax.grad(loss, argnums=(0, 1))(x, kernel)

            return jax.jvp(gradient, arrays[:2], arrays[:2])[1]

        for actual, expected in zip(*(along(f) for f in both(case)), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


def test_over_experts_and_in_bfloat16():
    case = CASES[0]
    ours, plain = both(case)
    stacked = [jnp.asarray(np.stack([a, 2 * a, -a]), jnp.bfloat16) for a in draw(*case)]
    results = (
        jax.vmap(functools.partial(gradients, f))(*stacked) for f in (ours, plain)
    )
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == expected.dtype == jnp.bfloat16
        actual, expected = (np.asarray(a, np.float32) for a in (actual, expected))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-2 * scale)


def test_in_a_loop_xla_computes_products_and_forward_convolutions():
    """What XLA on CPU computes element by element is a convolution that is reversed,
    dilated, or between batch and features."""
    ours, plain = both(CASES[0])
    arrays = [jnp.asarray(a, jnp.float32) for a in draw(*CASES[0])]

    def loop(function, arrays):
        def body(sums, _):
            _, *grads = gradients(function, *arrays[:2], sums[2])
            return jax.tree.map(jnp.add, sums, [*grads, sums[2]]), None

        return jax.lax.scan(body, arrays, None, length=3)[0]

    def slow(function):
        text = jax.jit(functools.partial(loop, function)).lower(arrays).compile()
        lines = [x for x in text.as_text().splitlines() if " convolution(" in x]
        return [
            line
            for line in lines
            if "dim_labels=b01f_01io->b01f" not in line or "rhs_reversal" in line
        ]

    assert slow(plain)  # The test would see it.
    assert not slow(ours)
