"""The gated depthwise convolution's plain forms, its switch, and its errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import glu_depthwise_conv
from kernels_pallas.glu_depthwise_conv import cpu, reference
from kernels_pallas.testing import (
    GPU,
    TPU,
    assert_close,
    lower,
    on,
    random_arrays,
    value_and_gradients,
)
from tests.kernels_pallas import glu_oracle

CONVOLUTIONS = [
    reference.depthwise_conv_shifted,
    reference.depthwise_conv_grouped,
    cpu.depthwise_conv,
]
# B, H, W, C, all different; and images thinner than the kernel.
SIZES = [(2, 4, 5, 6), (3, 1, 5, 2), (2, 5, 1, 4), (1, 1, 1, 2), (1, 2, 3, 4)]
PLAIN = [None, "reference", "cpu"]


def inputs(sizes=(2, 4, 5, 6), seed=0, dtype=np.float32):
    """x, kernel, bias and a cotangent of the output."""
    channels = sizes[-1]
    return random_arrays(
        sizes,
        (3, 3, channels),
        (channels,),
        (*sizes[:-1], channels // 2),
        seed=seed,
        dtype=dtype,
    )


@pytest.mark.parametrize("convolve", CONVOLUTIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_convolution_and_gradients_equal_the_loops(convolve, sizes):
    x, kernel, cotangent = random_arrays(sizes, (3, 3, sizes[-1]), sizes)
    out, gradients = value_and_gradients(convolve, (x, kernel), cotangent)
    # Sums of nine terms, and of a few hundred, in float32.
    assert_close(out, glu_oracle.conv(x, kernel), 2e-6)
    expected = glu_oracle.conv_gradients(x, kernel, cotangent)
    for actual, reference_gradient in zip(gradients, expected, strict=True):
        assert_close(actual, reference_gradient, 2e-6)


@pytest.mark.parametrize("implementation", PLAIN)
@pytest.mark.parametrize("sizes", SIZES)
def test_value_and_gradients_equal_the_loops(implementation, sizes):
    *arrays, cotangent = inputs(sizes)
    operation = functools.partial(glu_depthwise_conv, implementation=implementation)
    out, gradients = value_and_gradients(jax.jit(operation), arrays, cotangent)
    assert out.dtype == jnp.float32
    assert_close(out, glu_oracle.glu(*arrays), 4e-6)
    expected = glu_oracle.glu_gradients(*arrays, cotangent)
    for actual, reference_gradient in zip(gradients, expected, strict=True):
        assert_close(actual, reference_gradient, 4e-6)


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_inputs_of_two_types(implementation, dtypes):
    """Weights are cast to x's type, and their gradients back to their own."""
    *arrays, cotangent = inputs()
    arrays = [
        jnp.asarray(a, t) for a, t in zip(arrays, (*dtypes, dtypes[1]), strict=True)
    ]
    operation = functools.partial(glu_depthwise_conv, implementation=implementation)
    out, gradients = value_and_gradients(operation, arrays, cotangent)
    assert [x.dtype for x in (out, *gradients)] == [arrays[0].dtype] + [
        x.dtype for x in arrays
    ]
    cast = [x.astype(dtypes[0]) for x in arrays]
    expected, expected_gradients = value_and_gradients(operation, cast, cotangent)
    np.testing.assert_array_equal(out, expected)
    for one, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_array_equal(one, other.astype(one.dtype))


def test_the_loops_gradients_equal_finite_differences():
    *arrays, cotangent = inputs((2, 3, 4, 6))
    gradients = glu_oracle.glu_gradients(*arrays, cotangent)
    rng = np.random.default_rng(2)
    for i, gradient in enumerate(gradients):
        direction = rng.standard_normal(arrays[i].shape)
        values = []
        for sign in (1, -1):
            moved = [np.asarray(a, np.float64) for a in arrays]
            moved[i] = moved[i] + sign * 1e-6 * direction
            values.append(np.sum(cotangent * glu_oracle.glu(*moved)))
        expected = (values[0] - values[1]) / 2e-6
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-7)


def test_the_first_half_is_the_value_the_second_the_gate():
    x = np.zeros((1, 1, 1, 2), np.float32)
    kernel = np.zeros((3, 3, 2), np.float32)
    out = glu_depthwise_conv(x, kernel, np.array([3.0, 1.0], np.float32))
    assert float(out[0, 0, 0, 0]) == pytest.approx(3 / (1 + np.exp(-1.0)), rel=1e-6)


@pytest.mark.parametrize("implementation", PLAIN)
def test_bfloat16_stays_bfloat16_and_close(implementation):
    *arrays, _ = map(jnp.asarray, inputs(dtype=jnp.bfloat16))
    out = glu_depthwise_conv(*arrays, implementation=implementation)
    assert out.dtype == jnp.bfloat16
    # Nine terms added in bfloat16, up to 2^-8 each; the errors are not all one way.
    assert_close(out, glu_oracle.glu(*arrays), 5 * 2**-8)


def test_reference_has_forward_mode():
    """jvp, Hessian-vector products and gradients of a jvp, as finite differences."""
    *arrays, cotangent = inputs((2, 3, 4, 6))
    tangents = tuple(inputs((2, 3, 4, 6), seed=1)[:3])

    def loss(*arrays):
        out = glu_depthwise_conv(*arrays, implementation="reference")
        return jnp.sum(cotangent * out)

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    exact = glu_oracle.glu_gradients(*arrays, cotangent)
    slope = sum(np.sum(g * t) for g, t in zip(exact, tangents, strict=True))
    assert float(jax.jvp(loss, tuple(arrays), tangents)[1]) == pytest.approx(
        slope, rel=1e-5
    )

    ends = [
        glu_oracle.glu_gradients(
            *(np.float64(a) + s * t for a, t in zip(arrays, tangents, strict=True)),
            cotangent,
        )
        for s in (1e-5, -1e-5)
    ]
    expected = [(up - down) / 2e-5 for up, down in zip(*ends, strict=True)]
    forward_over_reverse = jax.jit(lambda *a: jax.jvp(gradient, a, tangents)[1])
    reverse_over_forward = jax.grad(
        lambda *a: jax.jvp(loss, a, tangents)[1], argnums=(0, 1, 2)
    )
    for product in (forward_over_reverse, reverse_over_forward):
        for actual, reference_product in zip(product(*arrays), expected, strict=True):
            assert_close(actual, reference_product, 1e-5)


def test_cpu_form_has_no_forward_mode():
    """That None runs on CPU: the reason why the switch exists."""
    *arrays, _ = inputs()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(glu_depthwise_conv, arrays, arrays)


def test_experts_axis():
    """vmap over stacked kernels and inputs, forward and gradients, as a loop."""
    experts = 3
    stacks = [inputs((2, 3, 4, 6), seed=i) for i in range(experts)]
    *arrays, cotangent = (np.stack(a) for a in zip(*stacks, strict=True))

    def one(*arrays):
        return value_and_gradients(glu_depthwise_conv, arrays[:3], arrays[3])

    out, gradients = jax.jit(jax.vmap(one))(*arrays, cotangent)
    for i, stack in enumerate(stacks):
        assert_close(out[i], glu_oracle.glu(*stack[:3]), 4e-6)
        expected = glu_oracle.glu_gradients(*stack)
        for actual, reference_gradient in zip(gradients, expected, strict=True):
            assert_close(actual[i], reference_gradient, 4e-6)


def test_no_images_and_no_channels():
    for sizes in [(0, 4, 5, 6), (2, 0, 5, 6), (2, 4, 0, 6), (2, 4, 5, 0)]:
        *arrays, _ = inputs(sizes)
        out = glu_depthwise_conv(*arrays)
        assert out.shape == (*sizes[:-1], sizes[-1] // 2)


@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 5, 6), (3, 3, 6), (6,)],
        [(2, 4, 5, 7), (3, 3, 7), (7,)],
        [(2, 4, 5, 6), (3, 3, 1), (6,)],
        [(2, 4, 5, 6), (3, 3, 6), (1,)],
        [(2, 4, 5, 6), (6, 3, 3), (6,)],
    ],
)
def test_shapes_that_do_not_fit_are_an_error(shapes):
    with pytest.raises(ValueError, match=r"\[B, H, W, 2E\].*not \[") as error:
        glu_depthwise_conv(*map(np.ones, shapes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("implementation", ["tpu", "gpu"])
def test_kernels_refuse_another_device(implementation):
    *arrays, _ = inputs()
    with pytest.raises(NotImplementedError, match=r"float32\[2, 4, 5, 6\].*'cpu'"):
        glu_depthwise_conv(*arrays, implementation=implementation)


@pytest.mark.parametrize("device", [TPU, GPU])
def test_unmeasured_devices_run_the_reference(device, caplog):
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs()[:3]]
    text = lower(glu_depthwise_conv, device, *shapes)
    assert "custom_call" not in text
    assert "stablehlo.convolution" in text
    with on(device):
        jax.make_jaxpr(glu_depthwise_conv)(*shapes)
    assert caplog.text.count("never measured") <= 1  # Once per process.


@pytest.mark.parametrize("implementation", PLAIN)
def test_bias_of_the_input(implementation):
    """The surroundings stay zeros: the bias is not added there."""
    x, kernel, bias, cotangent = inputs()
    input_bias = np.linspace(-1, 1, bias.size, dtype=np.float32)
    function = functools.partial(glu_depthwise_conv, implementation=implementation)
    arrays = x, kernel, bias, input_bias
    out, gradients = value_and_gradients(function, arrays, cotangent)
    added = x + input_bias
    assert_close(out, glu_oracle.glu(added, kernel, bias), 2e-6)
    expected = glu_oracle.glu_gradients(added, kernel, bias, cotangent)
    for actual, gradient in zip(gradients, expected, strict=False):
        assert_close(actual, gradient, 4e-6)
    assert_close(gradients[3], expected[0].sum((0, 1, 2)), 4e-6)
    with pytest.raises(ValueError, match="biases"):
        function(x, kernel, bias, input_bias[:-1])
