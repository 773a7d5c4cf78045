"""ReLU linear attention on TPU (Pallas, Mosaic).

Layout. (B, N, H, K) is read as (B, N, H * K), as the layers around it produce it. A
tile is some tokens by 128 lanes: 128 / K whole heads side by side, four of size 32.
The grid is (batch, tiles over the lanes, tiles over the tokens). Its last axis runs in
order, so that a state stays in VMEM while the tokens stream past.

Inside a tile the heads are not separated. One matrix W = [S | Z] of 128 x 256 holds
their states: S is block-diagonal, Z repeats z over the columns of its head's block. So
every pass is one or two products on the MXU ("o" is elementwise, d a gradient):

    state             S = phi(k)^T v; what lies off the diagonal blocks is dropped later
    state_gradients   dphi(k) = v dS^T + dz,    dv = phi(k) dS
    output            phi(q) W = [numerator | denominator of the column's head]
    output_gradients  dphi(q) = A W^T,    dW = phi(q)^T A,
                      A = [a | -a o out],    a = dout / (denominator + eps)

Padding rule. Nothing is padded in memory. The last tiles reach beyond N and H * K where
these are no multiples: 36 heads of 32 are exactly 9 tiles of lanes; 70 are 17.5, and
half of the 18th lies outside. What is read there is undefined, and every kernel
replaces it (`_Tiling.inside`) before it enters a sum; what is written there is dropped.

Queries, keys and values may be columns of one array (`Columns`), where each begins with
a whole tile.

Each of the four raises NotImplementedError for other input than this: float32 or
bfloat16, K that divides 128, not empty. Compiled for v4, v5e, v5p and v6e by the tests;
no TPU has run it yet.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas import dispatch
from kernels_pallas.linear_attention import columns, reference, tiles
from kernels_pallas.linear_attention.columns import Columns, as_columns
from kernels_pallas.tuning import AttentionOnTpu, tuned

LANES = 128


def split(qkv, heads):
    """Takes queries, keys and values from (B, N, 3 H K).

    Without copying them if the lanes of each fill whole tiles; a tile cannot begin in
    the middle of a register.
    """
    if qkv.shape[-1] // 3 % LANES == 0:
        return columns.split(qkv, heads)
    return reference.split(qkv, heads)


def state(k, v, floor):
    """Sums keys and values (B, N, H, K) to the state, float32 (B, H, K, K + 1)."""
    tiling = _Tiling.of(k, v)
    products, sums = tiling.call(
        "state",
        functools.partial(_state_kernel, tiling, floor),
        as_columns(k),
        as_columns(v),
        outputs=[tiling.per_tile(tiling.lanes), tiling.per_tile(1)],
    )
    return tiles.unpack(products, sums[:, :, 0], k.shape[2], k.shape[3])


def _state_kernel(tiling, floor, k_ref, v_ref, products_ref, sums_ref):
    _zero_at_the_first_token(products_ref, sums_ref)
    inside = tiling.inside()
    key = _where(inside, _features(k_ref, floor), 0)
    sums_ref[...] += jnp.sum(key, axis=0, keepdims=True)
    key, value = _exact(key, k_ref, floor), _inside(v_ref, inside)
    products_ref[...] += _dot(key, value, products_ref.dtype, contract=(0, 0))


def state_gradients(k, v, state_grad, floor):
    """Turns the gradient of the state (B, H, K, K + 1) into those of keys and values.

    Both are (B, N, H, K), as keys and values.
    """
    tiling = _Tiling.of(k, v)
    products, _ = tiles.pack(state_grad, tiling.heads_per_tile)
    dk, dv = tiling.call(
        "state_gradients",
        functools.partial(_state_gradients_kernel, tiling, floor),
        as_columns(k),
        as_columns(v),
        products,
        tiles.pack_sums(state_grad, tiling.heads_per_tile)[:, :, None],
        outputs=[tiling.like(k), tiling.like(v)],
    )
    return dk.reshape(k.shape), dv.reshape(v.shape)


def _state_gradients_kernel(
    tiling, floor, k_ref, v_ref, products_ref, sums_ref, dk_ref, dv_ref
):
    inside = tiling.inside()
    key = _exact(_where(inside, _features(k_ref, floor), 0), k_ref, floor)
    value = _inside(v_ref, inside)
    products = products_ref[...]
    key_grad = _dot(value, products, dk_ref.dtype, contract=(1, 1)) + sums_ref[...]
    dk_ref[...] = _relu_slope(key_grad, k_ref).astype(dk_ref.dtype)
    dv_ref[...] = _dot(key, products, dv_ref.dtype).astype(dv_ref.dtype)


def output(q, state, eps, floor):
    """Reads the state (B, H, K, K + 1) out: queries to outputs, (B, N, H, K) both."""
    tiling = _Tiling.of(q)
    (out,) = tiling.call(
        "output",
        functools.partial(_output_kernel, tiling, eps, floor),
        as_columns(q),
        tiling.wide(state),
        outputs=[tiling.like(q)],
    )
    return out.reshape(q.shape)


def _output_kernel(tiling, eps, floor, q_ref, wide_ref, out_ref):
    query = _where(tiling.inside(), _features(q_ref, floor), 0)
    query = _exact(query, q_ref, floor)
    wide = _dot(query, wide_ref[...], out_ref.dtype)
    numerator, denominator = jnp.split(wide, 2, axis=1)
    out_ref[...] = (numerator / (denominator + eps)).astype(out_ref.dtype)


def output_gradients(q, state, output_grad, eps, floor):
    """Turns the gradient of the output (B, N, H, K) into those of queries and state."""
    tiling = _Tiling.of(q)
    dq, wide = tiling.call(
        "output_gradients",
        functools.partial(_output_gradients_kernel, tiling, eps, floor),
        as_columns(q),
        as_columns(output_grad),
        tiling.wide(state),
        outputs=[tiling.like(q), tiling.per_tile(tiling.lanes, 2 * tiling.lanes)],
    )
    halves = jnp.split(wide, 2, axis=-1)
    return dq.reshape(q.shape), tiles.unpack_gradient(*halves, q.shape[2], q.shape[3])


def _output_gradients_kernel(
    tiling, eps, floor, q_ref, grad_ref, wide_ref, dq_ref, dwide_ref
):
    _zero_at_the_first_token(dwide_ref)
    inside = tiling.inside()
    query = _where(inside, _features(q_ref, floor), 0)
    query = _exact(query, q_ref, floor)
    wide = _dot(query, wide_ref[...], dq_ref.dtype)
    numerator, denominator = jnp.split(wide, 2, axis=1)
    # 1 outside, where eps alone may be 0 and the gradient is undefined.
    denominator = _where(inside, denominator + eps, 1)
    scaled = _where(inside, _float32(grad_ref[...]), 0) / denominator
    both = jnp.concatenate([scaled, -scaled * (numerator / denominator)], axis=1)
    query_grad = _dot(both, wide_ref[...], dq_ref.dtype, contract=(1, 1))
    dq_ref[...] = _relu_slope(query_grad, q_ref).astype(dq_ref.dtype)
    # It goes on to the gradients of keys and values, which mostly have q's dtype.
    dwide_ref[...] += _dot(query, both, dq_ref.dtype, contract=(0, 0))


def _float32(x):
    return x.astype(jnp.float32)


def _features(ref, floor):
    return jnp.maximum(_float32(ref[...]), 0) + floor


def _exact(features, ref, floor):
    """Casts features to the dtype of what they were made of, if that is exact."""
    return features.astype(ref.dtype) if floor == 0 else features


def _inside(ref, inside):
    if inside is None:
        return ref[...]
    return jnp.where(inside, _float32(ref[...]), 0).astype(ref.dtype)


def _where(inside, x, outside):
    """Replaces what lies outside the array; see `_Tiling.inside`."""
    return x if inside is None else jnp.where(inside, x, outside)


def _relu_slope(gradient, ref):
    # Chosen, not multiplied: the gradient at a dead row may be infinite.
    return jnp.where(_float32(ref[...]) > 0, gradient, 0)


def _dot(a, b, dtype, contract=(1, 0)):
    """Multiplies two matrices of float32 or bfloat16, summing in float32.

    The MXU multiplies bfloat16, so that float32 factors are cut into pieces. For a
    result in float32 HIGHEST takes three of each, in six passes. For one that is
    rounded to bfloat16 in the end two suffice, without the product of both second
    ones, and a factor that is bfloat16 is one: three passes, two, or one.

    Args:
      a, b: factors.
      dtype: what the result is rounded to in the end.
      contract: the axes of a and b to sum over.
    """

    def dot(a, b, precision):
        return jax.lax.dot_general(
            a,
            b,
            (((contract[0],), (contract[1],)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    if dtype == jnp.float32 and jnp.float32 in (a.dtype, b.dtype):
        return dot(_float32(a), _float32(b), jax.lax.Precision.HIGHEST)
    (a, *rests_of_a), (b, *rests_of_b) = _pieces(a), _pieces(b)
    # The smallest first.
    pairs = [(rest, b) for rest in rests_of_a] + [(a, rest) for rest in rests_of_b]
    products = [dot(*pair, jax.lax.Precision.DEFAULT) for pair in (*pairs, (a, b))]
    return functools.reduce(jnp.add, products)


def _pieces(x):
    """Cuts a matrix into bfloat16: one piece if it is, or two that hold 16 bits."""
    if x.dtype == jnp.bfloat16:
        return [x]
    first = x.astype(jnp.bfloat16)
    return [first, (x - _float32(first)).astype(jnp.bfloat16)]


def _zero_at_the_first_token(*refs):
    @pl.when(pl.program_id(2) == 0)
    def _():
        for ref in refs:
            ref[...] = jnp.zeros_like(ref)


@dataclasses.dataclass(frozen=True)
class _Tiling:
    """The way (B, N, H, K) is cut into tiles, and states are laid out per tile.

    Attributes:
      batch, tokens, heads, size: B, N, H, K.
    """

    batch: int
    tokens: int
    heads: int
    size: int

    @classmethod
    def of(cls, *arrays):
        """The tiling of arrays of one shape; raises what the kernels do not take."""
        shape = arrays[0].shape

        def unsupported(reason):
            return dispatch.unsupported("linear_attention", "tpu", reason, *arrays)

        for dtype in (x.dtype for x in arrays):
            if dtype not in (jnp.float32, jnp.bfloat16):
                raise unsupported("it takes float32 and bfloat16")
        if 0 in shape:
            raise unsupported("it is empty")
        if LANES % shape[-1]:
            raise unsupported(f"K must divide {LANES}")
        return cls(*shape)

    @property
    def channels(self) -> int:
        return self.heads * self.size

    @property
    def lanes(self) -> int:
        """Lanes of a tile."""
        return min(LANES, self.channels)

    @property
    def rows(self) -> int:
        """Tokens of a tile."""
        return min(tuned(AttentionOnTpu).tokens, self.tokens)

    @property
    def heads_per_tile(self) -> int:
        return self.lanes // self.size

    def like(self, x):
        """Shape of (B, N, H, K) as the kernels write it, (B, N, H * K)."""
        shape = (self.batch, self.tokens, self.channels)
        return jax.ShapeDtypeStruct(shape, x.dtype)

    def wide(self, state):
        """State -> W = [S | Z] of each tile."""
        return jnp.concatenate(tiles.pack(state, self.heads_per_tile), axis=-1)

    def per_tile(self, rows, columns=None):
        """Shape of a float32 matrix that each tile over the lanes has."""
        count = pl.cdiv(self.channels, self.lanes)
        shape = (self.batch, count, rows, columns or self.lanes)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def call(self, name: str, kernel: Callable, *inputs, outputs):
        """Runs a kernel over the grid, on Columns and matrices per tile."""
        return pl.pallas_call(
            kernel,
            grid=(
                self.batch,
                pl.cdiv(self.channels, self.lanes),
                pl.cdiv(self.tokens, self.rows),
            ),
            in_specs=[self._spec(x) for x in inputs],
            out_specs=[self._spec(x) for x in outputs],
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary")
            ),
            name=f"linear_attention_{name}",
        )(*(x.array if isinstance(x, Columns) else x for x in inputs))

    def _spec(self, x):
        is_columns = isinstance(x, Columns)
        if is_columns or len(x.shape) == 3:  # Tokens: a tile of them at each step.
            first = x.first // self.lanes if is_columns else 0
            return pl.BlockSpec(
                (None, self.rows, self.lanes), lambda b, tile, n: (b, n, first + tile)
            )
        # A matrix per tile over the lanes: the same at every step over the tokens.
        return pl.BlockSpec(
            (None, None, *x.shape[2:]), lambda b, tile, n: (b, tile, 0, 0)
        )

    def inside(self):
        """In a kernel: which entries of a (rows, lanes) tile exist; None for all.

        Only axes of which the last tile reaches beyond the array are compared.
        """
        parts = [
            jax.lax.broadcasted_iota(jnp.int32, (self.rows, self.lanes), axis)
            < size - pl.program_id(2 - axis) * tile
            for axis, (size, tile) in enumerate(
                ((self.tokens, self.rows), (self.channels, self.lanes))
            )
            if size % tile
        ]
        return functools.reduce(jnp.logical_and, parts) if parts else None
