"""The operation, and which form of it runs."""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from kernels_pallas import dispatch
from kernels_pallas.array_types import Array, Float
from kernels_pallas.glu_depthwise_conv import cpu, reference
from kernels_pallas.glu_depthwise_conv.vjp import with_gradient


def glu_depthwise_conv(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
    input_bias: Float[Array, "C"] | None = None,
    *,
    implementation: str | None = None,
) -> Float[Array, "B H W C//2"]:
    """Computes the middle of Mix-FFN: SiLU, 3x3 depthwise convolution, gate.

    s = silu(x + input_bias)
    y = depthwise3x3(s) + bias;   a, g = split(y);   out = a silu(g)

    The image's surroundings are zeros, after the SiLU. The first E channels are the
    value a, the others the gate g (GLUMBConv of SANA, arXiv 2410.10629).

    "tpu" and "gpu" compute in float32 whatever x is, and round once, at the end, but
    for the SiLU of bfloat16 on GPUs, see `gpu._activation`; "reference", "shifted" and
    "cpu" compute in x's dtype. kernel and bias are cast to it before. Gradients have
    their input's dtype.

    Args:
      x: the expanded features, before their SiLU. B images of H x W, C = 2 E channels.
      kernel: the filters, one per channel.
      bias: added after the convolution.
      input_bias: added to x, in float32; None adds nothing. It is here because the
        GPU kernel adds it as it loads x, in place of a pass over memory of its own.
      implementation: "reference" and "shifted", which is nine shifted
        multiply-adds on any device, differentiate in every way, forward mode included;
        "cpu", "tpu" and "gpu" in reverse mode only. None takes the one that was
        measured to be fastest on the device, see `dispatch.PREFERRED`.

    Returns:
      The gated values, in x's dtype.

    Raises:
      ValueError: the shapes do not fit together.
      NotImplementedError: the implementation asked for does not take this input or
        is for another device.
    """
    _check(x, kernel, bias, input_bias)
    # Here and not in the forms, so that JAX casts the gradients back.
    kernel, bias = (jnp.asarray(a, x.dtype) for a in (kernel, bias))
    arrays = (x, kernel, bias, input_bias)
    return dispatch.run(
        "glu_depthwise_conv",
        implementation,
        FORMS,
        *(a for a in arrays if a is not None),
    )


def _biased_first(form: Callable) -> Callable:
    """Makes a form that adds the input's bias before another one runs."""

    def run(x, kernel, bias, *input_bias):
        for extra in input_bias:
            # In float32, so that its gradient, a sum over all pixels, is too.
            x = (x.astype(jnp.float32) + extra.astype(jnp.float32)).astype(x.dtype)
        return form(x, kernel, bias)

    return run


def _tpu(*arrays):
    # Imported when used: Pallas takes a second to import.
    from kernels_pallas.glu_depthwise_conv import tpu

    _check_kernel_input("tpu", *arrays)
    return with_gradient(tpu.forward, tpu.backward)(*arrays)


def _gpu(x, kernel, bias, *input_bias):
    from kernels_pallas.glu_depthwise_conv import gpu

    arrays = (x, kernel, bias, *(input_bias or (jnp.zeros_like(bias),)))
    _check_kernel_input("gpu", *arrays)
    expanded = x.shape[-1] // 2
    if expanded < gpu.THREADS and expanded % 8 == 0:
        arrays = tuple(_pad_halves(a, gpu.THREADS) for a in arrays)

    def backward(x, kernel, bias, input_bias, cotangent):
        gradients = gpu.backward(x, kernel, bias, input_bias, cotangent)
        total = jnp.sum(gradients[0], axis=(0, 1, 2), dtype=jnp.float32)
        return *gradients, total.astype(input_bias.dtype)

    return with_gradient(gpu.forward, backward)(*arrays)[..., :expanded]


def _pad_halves(array, expanded):
    """Adds zero channels after the values' and after the gates', to E each."""
    halves = array.reshape(*array.shape[:-1], 2, -1)
    missing = expanded - halves.shape[-1]
    padded = jnp.pad(halves, [(0, 0)] * (halves.ndim - 1) + [(0, missing)])
    return padded.reshape(*array.shape[:-1], 2 * expanded)


FORMS = {
    "reference": _biased_first(reference.glu_depthwise_conv),
    "shifted": _biased_first(
        functools.partial(reference.gate_convolved, reference.depthwise_conv_shifted)
    ),
    "cpu": _biased_first(cpu.glu_depthwise_conv),
    "tpu": _biased_first(_tpu),
    "gpu": _gpu,
}


def _check(x, kernel, bias, input_bias):
    channels = jnp.shape(x)[-1:]
    fit = (
        jnp.ndim(x) == 4
        and channels[0] % 2 == 0
        and jnp.shape(kernel) == (3, 3, *channels)
        and jnp.shape(bias) == channels
        and (input_bias is None or jnp.shape(input_bias) == channels)
    )
    if not fit:
        shapes = ", ".join(
            str(list(jnp.shape(a)))
            for a in (x, kernel, bias, input_bias)
            if a is not None
        )
        raise ValueError(
            "glu_depthwise_conv: x, kernel and biases must be [B, H, W, 2E], "
            f"[3, 3, 2E] and [2E], not {shapes}"
        )


def _check_kernel_input(implementation, *arrays):
    reason = None
    if not all(a.dtype in (jnp.float32, jnp.bfloat16) for a in arrays):
        reason = "float32 and bfloat16 only, float16 overflows"
    elif arrays[0].size == 0:
        reason = "there are no elements"
    if reason:
        raise dispatch.unsupported(
            "glu_depthwise_conv", implementation, reason, *arrays
        )
