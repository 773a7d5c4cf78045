"""The O(N) gradient, as two operations with a backward pass each.

The derivation is in the README beside this file. `kernels` is a module (`tpu`, `gpu`)
with functions on (B, N, H, K) arrays or `Columns`, and float32 states (B, H, K, K + 1):

    split(qkv, heads)                                     -> q, k, v
    state(k, v, floor)                                    -> state
    state_gradients(k, v, state_grad, floor)              -> dk, dv
    output(q, state, eps, floor)                          -> output
    output_gradients(q, state, output_grad, eps, floor)   -> dq, state_grad

What is kept from forward to backward: the inputs and the state.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def linear_attention_state(kernels, k, v, floor):
    """Computes S and z from keys and values; see `api.linear_attention_state`."""
    return kernels.state(k, v, floor)


def _state_forward(kernels, k, v, floor):
    return kernels.state(k, v, floor), (k, v)


def _state_backward(kernels, floor, residual, state_grad):
    k, v = residual
    return kernels.state_gradients(k, v, state_grad, floor)


linear_attention_state.defvjp(_state_forward, _state_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def linear_attention_output(kernels, q, state, eps, floor):
    """Computes the output from queries and state; see `api.linear_attention_output`."""
    return kernels.output(q, state, eps, floor)


def _output_forward(kernels, q, state, eps, floor):
    return kernels.output(q, state, eps, floor), (q, state)


def _output_backward(kernels, eps, floor, residual, output_grad):
    q, state = residual
    return kernels.output_gradients(q, state, output_grad, eps, floor)


linear_attention_output.defvjp(_output_forward, _output_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2, 3, 4))
def linear_attention_qkv(kernels, qkv, heads, eps, floor):
    """Computes both halves of one array; see `api.linear_attention_qkv`."""
    return _qkv_forward(kernels, qkv, heads, eps, floor)[0]


def _qkv_forward(kernels, qkv, heads, eps, floor):
    q, k, v = kernels.split(qkv, heads)
    state = kernels.state(k, v, floor)
    return kernels.output(q, state, eps, floor), (qkv, state)


def _qkv_backward(kernels, heads, eps, floor, residual, output_grad):
    qkv, state = residual
    q, k, v = kernels.split(qkv, heads)
    dq, state_grad = kernels.output_gradients(q, state, output_grad, eps, floor)
    dk, dv = kernels.state_gradients(k, v, state_grad, floor)
    # Not stacked in five dimensions, where XLA would transpose each for TPUs.
    flat = [x.reshape(*qkv.shape[:2], -1) for x in (dq, dk, dv)]
    return (jnp.concatenate(flat, axis=-1),)


linear_attention_qkv.defvjp(_qkv_forward, _qkv_backward)


def linear_attention(kernels, q, k, v, eps, floor):
    """Computes both halves; see `api.linear_attention`."""
    state = linear_attention_state(kernels, k, v, floor)
    return linear_attention_output(kernels, q, state, eps, floor)
