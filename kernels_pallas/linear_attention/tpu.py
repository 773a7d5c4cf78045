"""ReLU linear attention on TPU (Pallas, Mosaic).

Layout. (B, N, H, K) is read as (B, N, H * K), as the layers around it produce it. A
tile is BLOCK_N tokens by 128 lanes: 128 / K whole heads side by side, four of size 32.
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

Compiled for v4, v5e, v5p and v6e by the tests; no TPU has run it yet.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas import dispatch
from kernels_pallas.linear_attention import reference, tiles

# Tokens of a tile: a multiple of 16, the rows of a bfloat16 register. In float32 a v5e
# has VMEM for 2,048; 4,096 do not compile (`output_gradients`).
BLOCK_N = 512
LANES = 128


split = reference.split


def state(k, v, floor):
    """Sums keys and values (B, N, H, K) to the state, float32 (B, H, K, K + 1)."""
    tiling = _Tiling.of(k, v)
    products, sums = tiling.call(
        functools.partial(_state_kernel, tiling, floor),
        tiling.flat(k),
        tiling.flat(v),
        outputs=[tiling.per_tile(tiling.lanes), tiling.per_tile(1)],
    )
    return tiles.unpack(products, sums[:, :, 0], k.shape[2], k.shape[3])


def _state_kernel(tiling, floor, k_ref, v_ref, products_ref, sums_ref):
    _zero_at_the_first_token(products_ref, sums_ref)
    inside = tiling.inside()
    key = jnp.where(inside, _features(k_ref, floor), 0)
    value = jnp.where(inside, _float32(v_ref), 0)
    sums_ref[...] += jnp.sum(key, axis=0, keepdims=True)
    if k_ref.dtype == v_ref.dtype == jnp.bfloat16 and floor == 0:
        # Such products are exact in float32: one pass of the MXU instead of six.
        key, value = key.astype(jnp.bfloat16), value.astype(jnp.bfloat16)
    products_ref[...] += _dot(key, value, contract=(0, 0))


def state_gradients(k, v, state_grad, floor):
    """Turns the gradient of the state into those of keys and values."""
    tiling = _Tiling.of(k, v)
    products, _ = tiles.pack(state_grad, tiling.heads_per_tile)
    dk, dv = tiling.call(
        functools.partial(_state_gradients_kernel, tiling, floor),
        tiling.flat(k),
        tiling.flat(v),
        products,
        tiles.pack_sums(state_grad, tiling.heads_per_tile)[:, :, None],
        outputs=[tiling.flat(k), tiling.flat(v)],
    )
    return dk.reshape(k.shape), dv.reshape(v.shape)


def _state_gradients_kernel(
    tiling, floor, k_ref, v_ref, products_ref, sums_ref, dk_ref, dv_ref
):
    key = jnp.where(tiling.inside(), _features(k_ref, floor), 0)
    value = jnp.where(tiling.inside(), _float32(v_ref), 0)
    key_grad = _dot(value, products_ref[...], contract=(1, 1)) + sums_ref[...]
    dk_ref[...] = _relu_slope(key_grad, k_ref).astype(dk_ref.dtype)
    dv_ref[...] = _dot(key, products_ref[...]).astype(dv_ref.dtype)


def output(q, state, eps, floor):
    """Reads the state out with queries (B, N, H, K)."""
    tiling = _Tiling.of(q)
    (out,) = tiling.call(
        functools.partial(_output_kernel, tiling, eps, floor),
        tiling.flat(q),
        tiling.wide(state),
        outputs=[tiling.flat(q)],
    )
    return out.reshape(q.shape)


def _output_kernel(tiling, eps, floor, q_ref, wide_ref, out_ref):
    query = jnp.where(tiling.inside(), _features(q_ref, floor), 0)
    numerator, denominator = jnp.split(_dot(query, wide_ref[...]), 2, axis=1)
    out_ref[...] = (numerator / (denominator + eps)).astype(out_ref.dtype)


def output_gradients(q, state, output_grad, eps, floor):
    """Turns the gradient of the output into those of queries and state."""
    tiling = _Tiling.of(q)
    dq, wide = tiling.call(
        functools.partial(_output_gradients_kernel, tiling, eps, floor),
        tiling.flat(q),
        tiling.flat(output_grad),
        tiling.wide(state),
        outputs=[tiling.flat(q), tiling.per_tile(tiling.lanes, 2 * tiling.lanes)],
    )
    halves = jnp.split(wide, 2, axis=-1)
    return dq.reshape(q.shape), tiles.unpack_gradient(*halves, q.shape[2], q.shape[3])


def _output_gradients_kernel(
    tiling, eps, floor, q_ref, grad_ref, wide_ref, dq_ref, dwide_ref
):
    _zero_at_the_first_token(dwide_ref)
    inside = tiling.inside()
    query = jnp.where(inside, _features(q_ref, floor), 0)
    numerator, denominator = jnp.split(_dot(query, wide_ref[...]), 2, axis=1)
    # 1 outside, where eps alone may be 0 and the gradient is undefined.
    denominator = jnp.where(inside, denominator + eps, 1)
    scaled = jnp.where(inside, _float32(grad_ref), 0) / denominator
    both = jnp.concatenate([scaled, -scaled * (numerator / denominator)], axis=1)
    query_grad = _dot(both, wide_ref[...], contract=(1, 1))
    dq_ref[...] = _relu_slope(query_grad, q_ref).astype(dq_ref.dtype)
    dwide_ref[...] += _dot(query, both, contract=(0, 0))


def _float32(ref):
    return ref[...].astype(jnp.float32)


def _features(ref, floor):
    return jnp.maximum(_float32(ref), 0) + floor


def _relu_slope(gradient, ref):
    # Chosen, not multiplied: the gradient at a dead row may be infinite.
    return jnp.where(_float32(ref) > 0, gradient, 0)


def _dot(a, b, contract=(1, 0)):
    """Product with float32 sums; HIGHEST, or float32 inputs would run as bfloat16."""
    exact = a.dtype == jnp.bfloat16
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=jax.lax.Precision.DEFAULT if exact else jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


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
        return min(BLOCK_N, self.tokens)

    @property
    def heads_per_tile(self) -> int:
        return self.lanes // self.size

    def flat(self, x):
        """(B, N, H, K) -> (B, N, H * K)."""
        return x.reshape(self.batch, self.tokens, self.channels)

    def wide(self, state):
        """State -> W = [S | Z] of each tile."""
        return jnp.concatenate(tiles.pack(state, self.heads_per_tile), axis=-1)

    def per_tile(self, rows, columns=None):
        """Shape of a float32 matrix that each tile over the lanes has."""
        count = pl.cdiv(self.channels, self.lanes)
        shape = (self.batch, count, rows, columns or self.lanes)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def call(self, kernel: Callable, *inputs, outputs):
        """Runs a kernel over the grid."""
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
        )(*inputs)

    def _spec(self, x):
        if x.ndim == 3:  # Tokens: a tile of them at each step.
            return pl.BlockSpec(
                (None, self.rows, self.lanes), lambda b, tile, n: (b, n, tile)
            )
        # A matrix per tile over the lanes: the same at every step over the tokens.
        return pl.BlockSpec(
            (None, None, *x.shape[2:]), lambda b, tile, n: (b, tile, 0, 0)
        )

    def inside(self):
        """In a kernel: which entries of a (rows, lanes) tile exist."""
        shape = (self.rows, self.lanes)
        row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        row += pl.program_id(2) * self.rows
        lane += pl.program_id(1) * self.lanes
        return (row < self.tokens) & (lane < self.channels)
