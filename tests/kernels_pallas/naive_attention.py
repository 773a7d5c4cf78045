"""ReLU linear attention as every query against every key: O(N^2), numpy, float64.

The gradients are those of this form, so that the O(N) ones have something to be
compared with that was derived another way.
"""

import numpy as np


def naive(q, k, v, *, eps=1e-15, floor=0.0):
    """softmax-free attention; (B, N, H, K) each."""
    weight, total, value, _, _ = _weights(q, k, v, eps, floor)
    return (weight @ value / total).swapaxes(1, 2)


def naive_gradients(q, k, v, grad, *, eps=1e-15, floor=0.0):
    """Gradients of sum(grad * naive(q, k, v)) with respect to q, k and v."""
    weight, total, value, query, key = _weights(q, k, v, eps, floor)
    grad = _heads_first(grad)
    output = weight @ value / total
    weight_grad = (
        grad @ value.swapaxes(-1, -2) - np.sum(grad * output, axis=-1, keepdims=True)
    ) / total
    dq = (weight_grad @ key).swapaxes(1, 2) * (np.asarray(q) > 0)
    dk = (weight_grad.swapaxes(-1, -2) @ query).swapaxes(1, 2) * (np.asarray(k) > 0)
    dv = (weight.swapaxes(-1, -2) @ (grad / total)).swapaxes(1, 2)
    return dq, dk, dv


def _weights(q, k, v, eps, floor):
    query, key, value = (_heads_first(x) for x in (q, k, v))
    query, key = np.maximum(query, 0) + floor, np.maximum(key, 0) + floor
    weight = query @ key.swapaxes(-1, -2)  # (B, H, N, N)
    return weight, weight.sum(axis=-1, keepdims=True) + eps, value, query, key


def _heads_first(x):
    return np.asarray(x, np.float64).swapaxes(1, 2)
