"""CAME, the optimiser that SANA is trained with, as an optax transformation.

Luo et al., "CAME: Confidence-guided Adaptive Memory Efficient Optimization" (ACL
2023, arXiv 2307.02047). Per tensor with gradient g, all in float32; EMA(b, x) starts
at 0 and there is no bias correction:

    q = g^2 + eps1
    u = g / sqrt(EMA(b2, q))             scaled down to a root mean square <= clip
    m = EMA(b1, u)
    s = (u - m)^2 + eps2                 matrices only
    update = m / sqrt(EMA(b3, s))        matrices only; otherwise m

For a matrix, EMA(b, x) in the two square roots is stored in factored form, as the EMAs
R and C of the row and column means of x, and means R C / mean(R). That is the saving of
Adafactor: a matrix keeps m and two pairs of vectors instead of Adam's two matrices.

Differs from SANA's CAMEWrapper only in the layout. Its 1x1 convolutions are our dense
layers. The parameters of our blocks are stacked along a leading axis of layers, and
each slice is treated as a tensor of its own, which is factored and clipped separately.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from linearsr_jax.core.array_types import Array, Float, PyTree


class Factored(NamedTuple):
    """EMAs of the means over a matrix's columns and over its rows."""

    row: Float[Array, "*layers I"]
    column: Float[Array, "*layers O"]


class CameState(NamedTuple):
    """EMAs of u, q and s; an empty tuple replaces s where it is not kept."""

    mean: PyTree
    square: PyTree
    residual: PyTree


def scale_by_came(
    b1: float,
    b2: float,
    b3: float,
    *,
    is_stacked: Callable[[PyTree], PyTree],
    eps1: float = 1e-30,
    eps2: float = 1e-16,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """Rescales gradients as CAME does, before weight decay and learning rate.

    A matrix has two axes, or four of which the first two have length 1.

    Args:
      b1, b2, b3: decay rates of the EMAs of u, q and s; SANA has 0.9, 0.999, 0.9999.
      is_stacked: function from the parameters to a tree of bools, True for leaves whose
        first axis is one of layers.
      eps1, eps2: constants added to q and s.
      clip: bound on the root mean square of u over a tensor.

    Returns:
      A transformation whose state has the type of the parameters. If `init` gets
      parameters boxed with logical axis names (flax), it boxes the state too.
    """

    def init(params):
        stacked = is_stacked(nn.meta.unbox(params))

        def each(make):
            return jax.tree.map(make, params, stacked, is_leaf=_is_box)

        return CameState(
            mean=jax.tree.map(jnp.zeros_like, params),
            square=each(
                lambda p, s: _factored(p, s) or jax.tree.map(jnp.zeros_like, p)
            ),
            residual=each(lambda p, s: _factored(p, s) or ()),
        )

    def update(updates, state, params=None):
        del params

        def leaf(g, m, square, residual, s):
            square = _ema_square(b2, square, jnp.square(g) + eps1)
            u = g * _inverse_root(square)
            axes = tuple(range(int(s), g.ndim))
            rms = jnp.sqrt(jnp.mean(jnp.square(u), axis=axes, keepdims=True))
            u = u / jnp.maximum(1.0, rms / clip)
            m = b1 * m + (1.0 - b1) * u
            if not isinstance(residual, Factored):
                return m, m, square, residual
            residual = _ema_square(b3, residual, jnp.square(u - m) + eps2)
            return m * _inverse_root(residual), m, square, residual

        treedef = jax.tree.structure(updates)
        rows = [
            leaf(*row)
            for row in zip(
                treedef.flatten_up_to(updates),
                *(treedef.flatten_up_to(part) for part in state),
                treedef.flatten_up_to(is_stacked(updates)),
                strict=True,
            )
        ]
        scaled, *parts = (treedef.unflatten(x) for x in zip(*rows, strict=True))
        return scaled, CameState(*parts)

    return optax.GradientTransformation(init, update)


def _factored(param, stacked: bool) -> Factored | None:
    """Makes zeros for a matrix or a stack of matrices; None for other parameters."""
    shape = nn.meta.unbox(param).shape[int(stacked) :]
    if len(shape) == 2 or (len(shape) == 4 and shape[:2] == (1, 1)):
        return Factored(_zeros_without(param, -1), _zeros_without(param, -2))
    return None


def _zeros_without(param, axis: int):
    """Makes zeros like a parameter without one axis, boxed like it."""
    zeros = jnp.zeros_like(jnp.take(nn.meta.unbox(param), 0, axis))
    if not _is_box(param):
        return zeros
    names = list(param.names)
    del names[axis]
    return param.replace(value=zeros, names=tuple(names))


def _is_box(leaf) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _ema_square(rate, old, value):
    def ema(old, value):
        return rate * old + (1.0 - rate) * value

    if isinstance(old, Factored):
        row, column = jnp.mean(value, axis=-1), jnp.mean(value, axis=-2)
        return Factored(ema(old.row, row), ema(old.column, column))
    return ema(old, value)


def _inverse_root(square):
    """Computes 1 / sqrt(square), also of a factored square."""
    if not isinstance(square, Factored):
        return jax.lax.rsqrt(square)
    row, column = square
    # R / mean(R) would underflow in a dead row, and its inverse root be infinite.
    mean = jnp.sqrt(jnp.mean(row, axis=-1, keepdims=True))
    row = jax.lax.rsqrt(row) * mean
    return row[..., :, None] * jax.lax.rsqrt(column)[..., None, :]
