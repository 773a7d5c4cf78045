"""ReLU linear attention on NVIDIA's Hopper GPUs (Pallas, Mosaic GPU).

Layout. (B, N, H, K) is read as (B, N, H * K). wgmma, the tensor cores' product, takes
64 rows at least, so two heads of 32 share a tile of 64 channels, and their states one
block-diagonal matrix S of 64 x 64, with Z beside it (see `tiles`). A block of threads
owns one pair of heads of one sample and some steps of ROWS tokens, of which it streams
ROWS at a time through shared memory. Sums over tokens are per block; XLA adds those of
the blocks, always in the same order.

    state             S = phi(k)^T v,   Z = phi(k)^T 1
    state_gradients   dphi(k) = v dS^T + dz,    dv = phi(k) dS
    output            numerator = phi(q) S,   denominator = phi(q) Z + eps
    output_gradients  a = dout / denominator,   c = -a o out   ("o" is elementwise)
                      dphi(q) = a S^T + c Z^T,   dS = phi(q)^T a,   dZ = phi(q)^T c

Numerics. wgmma multiplies bfloat16 and adds in float32. Features of bfloat16 inputs are
bfloat16, exactly; a float32 matrix is cut into two bfloat16 pieces (`_pieces`), which
keep 16 bits of its mantissa. What is left out is 2^-17 of a factor, where the outputs
are rounded to bfloat16, by up to 2^-9; README.md has the error that remains.

Queries, keys and values may be columns of one array, as one product made them
(`Columns`): a tile is copied from wherever it stands, so they are not cut apart before.

Each of the four raises NotImplementedError for other input than this: bfloat16, K = 32,
an even H, N a multiple of 64, floor 0. Lowered by the tests for an H100, and
interpreted with jax 0.11 and newer; no GPU has run it yet.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels_pallas import dispatch
from kernels_pallas.linear_attention import tiles
from kernels_pallas.linear_attention.columns import as_columns
from kernels_pallas.linear_attention.columns import split as split  # for `vjp`
from kernels_pallas.tuning import AttentionOnGpu, tuned

# Tokens of a step, a multiple of 64. `output_gradients` has no register for more.
ROWS = 64

SIZE = 32
PAIR = 2 * SIZE
PIECES = 2
# Which pieces to multiply: the product of both second ones is below what is kept.
PRODUCTS = [(0, 0), (0, 1), (1, 0)]


def state(k, v, floor):
    """Sums keys and values (B, N, H, K) to the state, float32 (B, H, K, K + 1)."""
    grid = _Grid.of(floor, k, v)
    columns = k, v = as_columns(k), as_columns(v)

    def kernel(k_ref, v_ref, sums_ref, key, ones, both):
        ones[...] = jnp.ones((ROWS, PAIR), jnp.bfloat16)

        def add_up(products, normalizer):
            def step(_, k_tile, v_tile):
                key[...] = _features(k_tile)
                plgpu.commit_smem()
                plgpu.wgmma(products, key.T, v_tile)
                plgpu.wgmma(normalizer, key.T, ones)
                plgpu.wgmma_wait(0)

            grid.stream(step, [k_ref, v_ref], columns)
            return products[...], normalizer[...]

        both[:PAIR], both[PAIR:] = pl.run_scoped(add_up, ACCUMULATOR, ACCUMULATOR)
        grid.store(both, sums_ref)

    sums = grid.call(
        kernel,
        k.array,
        v.array,
        outputs=grid.sums(),
        scratch=[_tokens(), _tokens(), _matrices(2, jnp.float32)],
    )
    products, repeated = grid.add_blocks(sums)
    return tiles.unpack(products, repeated[..., 0], grid.heads, SIZE)


def state_gradients(k, v, state_grad, floor):
    """Turns the gradient of the state (B, H, K, K + 1) into those of keys and values.

    Both are (B, N, H, K), as keys and values.
    """
    grid = _Grid.of(floor, k, v)
    columns = k, v = as_columns(k), as_columns(v)

    def kernel(k_ref, v_ref, ds_ref, dz_ref, dk_ref, dv_ref, *scratch):
        key, ds, dz, dk_tile, dv_tile, *loaded = scratch
        grid.load(ds_ref, ds, loaded[0])
        grid.load(dz_ref, dz, loaded[1])
        for barrier in loaded:
            plgpu.barrier_wait(barrier)

        def step(index, k_tile, v_tile):
            key[...] = _features(k_tile)
            plgpu.commit_smem()
            dkey = _add_products([(v_tile, _matrix(ds, i).T) for i in range(PIECES)])
            dk_step = _relu_slope(dkey + dz[...], k_tile)
            grid.write(index, dk_step, dk_tile, dk_ref, tiles=2)
            dvalue = _add_products([(key, _matrix(ds, i)) for i in range(PIECES)])
            dv_step = dvalue.astype(jnp.bfloat16)
            grid.write(index, dv_step, dv_tile, dv_ref, tiles=2)

        grid.stream(step, [k_ref, v_ref], columns)

    # A row for each token of a step, all equal.
    rows = tiles.pack_sums(state_grad, 2)[:, :, None]
    dk, dv = grid.call(
        kernel,
        k.array,
        v.array,
        _pieces_of_matrices(tiles.pack(state_grad, 2)[0]),
        jnp.broadcast_to(rows, (grid.batch, grid.pairs, ROWS, PAIR)),
        outputs=[grid.tokens_out(), grid.tokens_out()],
        scratch=[
            _tokens(),
            _matrices(PIECES),
            _tokens(jnp.float32),
            _tokens(),
            _tokens(),
            plgpu.Barrier(),
            plgpu.Barrier(),
        ],
    )
    return dk.reshape(k.shape), dv.reshape(v.shape)


def output(q, state, eps, floor):
    """Reads the state (B, H, K, K + 1) out: queries to outputs, (B, N, H, K) both."""
    grid = _Grid.of(floor, q)
    q = as_columns(q)

    def kernel(q_ref, state_ref, out_ref, query, pieces, out_tile, loaded):
        grid.load(state_ref, pieces, loaded)
        plgpu.barrier_wait(loaded)

        def step(index, q_tile):
            query[...] = _features(q_tile)
            plgpu.commit_smem()
            ratio = _numerator(query, pieces) / _denominator(query, pieces, eps)
            grid.write(index, ratio.astype(jnp.bfloat16), out_tile, out_ref)

        grid.stream(step, [q_ref], [q])

    out = grid.call(
        kernel,
        q.array,
        _pieces_of_matrices(*tiles.pack(state, 2)),
        outputs=grid.tokens_out(),
        scratch=[_tokens(), _matrices(2 * PIECES), _tokens(), plgpu.Barrier()],
    )
    return out.reshape(q.shape)


def output_gradients(q, state, output_grad, eps, floor):
    """Turns the gradient of the output (B, N, H, K) into those of queries and state."""
    grid = _Grid.of(floor, q, output_grad)
    columns = q, output_grad = as_columns(q), as_columns(output_grad)

    def kernel(q_ref, grad_ref, state_ref, dq_ref, sums_ref, *scratch):
        query, pieces, ac, dq_tile, dw, loaded = scratch
        grid.load(state_ref, pieces, loaded)
        plgpu.barrier_wait(loaded)
        # The sums do not fit into registers beside all the rest.
        dproducts, dnormalizer = _matrix(dw, 0), _matrix(dw, 1)
        for total in (dproducts, dnormalizer):
            total[...] = jnp.zeros((PAIR, PAIR), jnp.float32)

        def step(index, q_tile, grad_tile):
            query[...] = _features(q_tile)
            plgpu.commit_smem()
            # One after the other, and pieces stored at once: registers are short.
            inverse = 1 / _denominator(query, pieces, eps)
            a = grad_tile[...].astype(jnp.float32) * inverse
            for i, piece in enumerate(_pieces(a)):
                ac[i] = piece
            out = _numerator(query, pieces) * inverse
            # a once more: kept until here, it was spilled.
            c = -(grad_tile[...].astype(jnp.float32) * inverse) * out
            for i, piece in enumerate(_pieces(c)):
                ac[PIECES + i] = piece
            plgpu.commit_smem()
            for total, first in ((dproducts, 0), (dnormalizer, PIECES)):
                total[...] += _add_products(
                    [(query.T, ac.at[first + i]) for i in range(PIECES)]
                )
            dquery = _add_products(
                [
                    (ac.at[first + i], _matrix(pieces, first + j).T)
                    for first in (0, PIECES)
                    for i, j in PRODUCTS
                ]
            )
            grid.write(index, _relu_slope(dquery, q_tile), dq_tile, dq_ref)

        grid.stream(step, [q_ref, grad_ref], columns)
        grid.store(dw, sums_ref)

    dq, sums = grid.call(
        kernel,
        q.array,
        output_grad.array,
        _pieces_of_matrices(*tiles.pack(state, 2)),
        outputs=[grid.tokens_out(), grid.sums()],
        scratch=[
            _tokens(),
            _matrices(2 * PIECES),
            plgpu.SMEM((2 * PIECES, ROWS, PAIR), jnp.bfloat16),
            _tokens(),
            _matrices(2, jnp.float32),
            plgpu.Barrier(),
        ],
    )
    state_grad = tiles.unpack_gradient(*grid.add_blocks(sums), grid.heads, SIZE)
    return dq.reshape(q.shape), state_grad


def _features(tile):
    return jnp.maximum(tile[...], 0)


def _relu_slope(gradient, tile):
    # Chosen, not multiplied: the gradient at a dead row may be infinite.
    alive = tile[...].astype(jnp.float32) > 0
    return jnp.where(alive, gradient, 0.0).astype(jnp.bfloat16)


def _numerator(query, pieces):
    return _add_products([(query, _matrix(pieces, i)) for i in range(PIECES)])


def _denominator(query, pieces, eps):
    of_z = range(PIECES, 2 * PIECES)
    return _add_products([(query, _matrix(pieces, i)) for i in of_z]) + eps


def _add_products(pairs):
    """Sum of matrix products, (ROWS, 64) x (64, 64) each."""

    def add_up(accumulator):
        for left, right in pairs:
            plgpu.wgmma(accumulator, left, right)
        plgpu.wgmma_wait(0)
        return accumulator[...]

    return pl.run_scoped(add_up, plgpu.ACC((ROWS, PAIR), jnp.float32))


def _pieces(x):
    """float32 -> bfloat16 that nearly add up to it, 8 bits of the mantissa each."""
    pieces = []
    for _ in range(PIECES):
        pieces.append(x.astype(jnp.bfloat16))
        x = x - pieces[-1].astype(jnp.float32)
    return pieces


def _pieces_of_matrices(*matrices):
    """(B, pairs, 64, 64) each -> (B, pairs, 64 rows for each piece, 64)."""
    pieces = []
    for rest in matrices:
        for _ in range(PIECES):
            # A plain cast to bfloat16 and back may be optimised away by XLA.
            piece = jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7)
            pieces.append(piece.astype(jnp.bfloat16))
            rest = rest - piece
    return jnp.concatenate(pieces, axis=2)


def _place():
    """Finds which sample, pair of heads and chunk of tokens this block has."""
    return tuple(jax.lax.axis_index(name) for name in AXES)


AXES = ("batch", "pair", "chunk")
ACCUMULATOR = plgpu.ACC((PAIR, PAIR), jnp.float32)


def _tokens(dtype=jnp.bfloat16):
    return plgpu.SMEM((ROWS, PAIR), dtype)


def _matrices(count, dtype=jnp.bfloat16):
    return plgpu.SMEM((count * PAIR, PAIR), dtype)


def _matrix(matrices, index):
    return matrices.at[pl.ds(index * PAIR, PAIR)]


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The way (B, N, H, K) is cut into blocks of threads.

    Attributes:
      batch, tokens, heads: B, N, H.
      steps: of a block, which divide the tokens evenly.
      stages: steps whose copies are under way together.
    """

    batch: int
    tokens: int
    heads: int
    steps: int
    stages: int

    @classmethod
    def of(cls, floor, *arrays):
        """The grid for arrays of one shape; raises what the kernels do not take."""
        batch, tokens, heads, size = arrays[0].shape
        for fits, reason in (
            (all(x.dtype == jnp.bfloat16 for x in arrays), "it takes bfloat16"),
            (size == SIZE, f"K must be {SIZE}"),
            (heads % 2 == 0, "H must be even"),
            (tokens % ROWS == 0, f"N must be a multiple of {ROWS}"),
            (batch * tokens * heads > 0, "it is empty"),
            (floor == 0, "floor must be 0"),
        ):
            if not fits:
                raise dispatch.unsupported("linear_attention", "gpu", reason, *arrays)
        values, all_steps = tuned(AttentionOnGpu), tokens // ROWS
        # No more than leave a block for each multiprocessor.
        to_fill = batch * (heads // 2) * all_steps // dispatch.multiprocessors()
        most = max(1, min(values.steps, to_fill))
        steps = max(n for n in range(1, most + 1) if all_steps % n == 0)
        return cls(batch, tokens, heads, steps, values.stages)

    @property
    def pairs(self) -> int:
        return self.heads // 2

    @property
    def chunks(self) -> int:
        """Blocks over the tokens."""
        return self.tokens // ROWS // self.steps

    def tokens_out(self):
        """Shape of what `write` writes."""
        shape = (self.batch, self.tokens, self.heads * SIZE)
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    def sums(self):
        """Shape of what `store` writes."""
        shape = (self.chunks, self.batch, self.pairs, 2 * PAIR, PAIR)
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def add_blocks(self, sums):
        """Loads what `store` wrote -> two (B, pairs, 64, 64)."""
        return jnp.split(sums.sum(axis=0), 2, axis=-2)

    def call(self, kernel, *inputs, outputs, scratch):
        """Runs a kernel over the grid."""
        return plgpu.kernel(
            kernel,
            out_type=outputs,
            grid=(self.batch, self.pairs, self.chunks),
            grid_names=AXES,
            scratch_types=scratch,
            compiler_params=plgpu.CompilerParams(
                lowering_semantics=plgpu.LoweringSemantics.Warpgroup
            ),
        )(*inputs)

    # In a kernel:

    def stream(self, step, refs, columns):
        """Calls step(index, *tiles) for each ROWS tokens of this block, in order."""
        batch, pair, chunk = _place()

        def spec(before):
            return plgpu.BlockSpec(
                (ROWS, PAIR), lambda i: (chunk * self.steps + i, before + pair)
            )

        plgpu.emit_pipeline(
            step,
            grid=(self.steps,),
            in_specs=[spec(part.first // PAIR) for part in columns],
            max_concurrent_steps=self.stages,
        )(*(ref.at[batch] for ref in refs))
        plgpu.wait_smem_to_gmem(0)

    def write(self, index, values, tile, ref, tiles=1):
        """Copies a step's values to global memory, through a tile in shared memory.

        A step copies `tiles` of them, each always in the same order.
        """
        batch, pair, chunk = _place()
        # The last step's copy of this tile. Those of the others may go on.
        plgpu.wait_smem_to_gmem(tiles - 1, wait_read_only=True)
        tile[...] = values
        plgpu.commit_smem()
        rows = pl.ds((chunk * self.steps + index[0]) * ROWS, ROWS)
        plgpu.copy_smem_to_gmem(tile, ref.at[batch, rows, pl.ds(pair * PAIR, PAIR)])

    def load(self, ref, destination, barrier):
        """Begins to copy what belongs to this pair of heads to shared memory."""
        batch, pair, _ = _place()
        plgpu.copy_gmem_to_smem(ref.at[batch, pair], destination, barrier)

    def store(self, sums, ref):
        """Copies this block's sums to global memory."""
        batch, pair, chunk = _place()
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(sums, ref.at[chunk, batch, pair])
        plgpu.wait_smem_to_gmem(0)
