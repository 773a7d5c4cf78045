"""SiLU, depthwise convolution and gate on TPU (Pallas, Mosaic), and their gradient.

One program computes some rows, all columns and some channels of the output:

    grid (channels, batch, rows)     columns lie on sublanes, channels on lanes

It reads the value's and the gate's block of x, and the `halo` rows above and below
them: 1 forward, 2 backward. Blocks may not overlap, so a halo is a block of its own,
`halo` rows tall, of the same array. Inside, rows of float32 lie in scratch with a zero
column on each side, and the nine taps are nine loads at shifted offsets.

Channels never meet. So the last block may reach beyond E: what it reads there is
garbage, what it computes from that is dropped when the block is written.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas.array_types import Array, Float
from kernels_pallas.dispatch import unsupported
from kernels_pallas.glu_depthwise_conv.vjp import (
    pack_weights,
    silu_slope,
    unpack_weights,
)
from kernels_pallas.tuning import GluOnTpu, tuned

# Scratch column of an image's first column: stores of whole registers start at 8.
_FIRST = 8


def forward(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
) -> Float[Array, "B H W C//2"]:
    """Runs the operation; float32 inside, the result in x's dtype.

    Raises:
      NotImplementedError: for images whose rows are too wide for VMEM.
    """
    batch, height, width, channels = x.shape
    expanded = channels // 2
    halo = 1
    rows = choose_rows(height, width, x.dtype, halo)
    choose_rows(height, width, x.dtype, 2)  # What runs forward has its gradient too.
    block = tuned(GluOnTpu).channels
    value, gate, gate_offset = _halves(x, block)
    x_specs = functools.partial(_halo_specs, height, width, rows, halo, block)
    weights_spec = pl.BlockSpec((2, 10, block), lambda c, b, r: (0, 0, c))
    return pl.pallas_call(
        functools.partial(_forward_kernel, height),
        grid=(pl.cdiv(expanded, block), batch, pl.cdiv(height, rows)),
        in_specs=[weights_spec, x_specs(0), x_specs(gate_offset)],
        out_specs=_block_spec(rows, width, block),
        out_shape=jax.ShapeDtypeStruct((batch, height, width, expanded), x.dtype),
        scratch_shapes=[_padded_rows(rows + 2 * halo, width, block)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel")
        ),
        name="glu_depthwise_conv",
    )(pack_weights(kernel, (bias,)), (value,) * 3, (gate,) * 3)


def backward(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
    cotangent: Float[Array, "B H W C//2"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "3 3 C"], Float[Array, "C"]]:
    """Returns the gradients of x, kernel and bias, from x and the output's cotangent.

    The sums over batch, rows and columns are float32 and in one fixed order.

    Raises:
      NotImplementedError: for images whose rows are too wide for VMEM.
    """
    batch, height, width, channels = x.shape
    expanded = channels // 2
    halo = 2
    rows = choose_rows(height, width, x.dtype, halo)
    block = tuned(GluOnTpu).channels
    value, gate, gate_offset = _halves(x, block)
    specs = functools.partial(_halo_specs, height, width, rows, halo, block)
    weights_spec = pl.BlockSpec((2, 10, block), lambda c, b, r: (0, 0, c))
    half = jax.ShapeDtypeStruct((batch, height, width, expanded), x.dtype)
    padded = _padded_rows(rows + 2 * halo, width, block)
    grad_value, grad_gate, grad_weights = pl.pallas_call(
        functools.partial(_backward_kernel, height),
        grid=(pl.cdiv(expanded, block), batch, pl.cdiv(height, rows)),
        in_specs=[weights_spec, specs(0), specs(gate_offset), specs(0)],
        out_specs=[*[_block_spec(rows, width, block)] * 2, weights_spec],
        out_shape=[half, half, jax.ShapeDtypeStruct((2, 10, expanded), jnp.float32)],
        scratch_shapes=[padded, padded],
        compiler_params=pltpu.CompilerParams(
            # The weights' gradient stays in VMEM over batch and rows, which therefore
            # are run in order.
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        name="glu_depthwise_conv_gradient",
    )(pack_weights(kernel, (bias,)), (value,) * 3, (gate,) * 3, (cotangent,) * 3)
    grad_kernel, grad_bias = unpack_weights(grad_weights)
    return (
        jnp.concatenate([grad_value, grad_gate], axis=-1),
        grad_kernel.astype(kernel.dtype),
        grad_bias.astype(bias.dtype),
    )


def choose_rows(height: int, width: int, dtype: jnp.dtype, halo: int) -> int:
    """Returns how many rows one program computes: a multiple of the halo.

    Raises:
      NotImplementedError: not even `halo` rows fit into VMEM.
    """
    most, allowed = tuned(GluOnTpu).rows, tuned(GluOnTpu).vmem_bytes
    rows = min(most // halo, pl.cdiv(height, halo)) * halo
    while vmem_bytes(rows, width, dtype, halo) > allowed:
        rows = rows // 2 // halo * halo
        if rows < halo:
            shape = jax.ShapeDtypeStruct((height, width), dtype)
            reason = f"rows of {width} columns do not fit into {allowed} bytes"
            raise unsupported("glu_depthwise_conv", "tpu", reason, shape)
    return rows


def vmem_bytes(rows: int, width: int, dtype: jnp.dtype, halo: int) -> int:
    """Returns the VMEM that the blocks and the scratch of one program take."""
    size = jnp.dtype(dtype).itemsize
    tile = 32 // size  # sublanes of a tile: 8 for float32, 16 for bfloat16
    channels = tuned(GluOnTpu).channels
    row = pl.cdiv(width, tile) * tile * channels * size
    arrays_in, arrays_out, scratches = (2, 1, 1) if halo == 1 else (3, 2, 2)
    blocks = row * (arrays_in * (rows + 2 * halo) + arrays_out * rows)
    scratch = scratches * 2 * (rows + 2 * halo) * _scratch_width(width) * channels * 4
    return 2 * blocks + scratch


def _forward_kernel(height, weights, value, gate, out, features):
    rows = out.shape[1]
    _fill_features(features, (value, gate), height)

    def one_row(row, _):
        a, g = (_convolve(features, half, row, weights) for half in (0, 1))
        out[0, row] = (a * jax.nn.silu(g)).astype(out.dtype)

    jax.lax.fori_loop(0, rows, one_row, None)


def _backward_kernel(height, weights, value, gate, cotangent, *outputs_and_scratch):
    """Derivation: README.md. Row t of `grads` is row first + t - 1 of the image."""
    *grad_x, grad_weights, features, grads = outputs_and_scratch
    rows, width = grad_x[0].shape[1:3]
    first = pl.program_id(2) * rows
    _fill_features(features, (value, gate), height)
    _zero_borders(grads, width)

    @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
    def _():
        grad_weights[...] = jnp.zeros_like(grad_weights)

    def grad_of_y(row, grad_out):
        a, g = (_convolve(features, half, row, weights) for half in (0, 1))
        grad_out = grad_out.astype(jnp.float32)
        inside = _is_inside(first + row - 1, height)
        columns = pl.ds(_FIRST, width)
        grads[0, row, columns] = jnp.where(inside, grad_out * jax.nn.silu(g), 0)
        grads[1, row, columns] = jnp.where(inside, grad_out * a * silu_slope(g), 0)

    above, here, below = cotangent
    grad_of_y(0, above[0, 1])
    jax.lax.fori_loop(0, rows, lambda t, _: grad_of_y(t + 1, here[0, t]), None)
    grad_of_y(rows + 1, below[0, 0])

    def one_row(row, _):
        for half, x in enumerate((value[1], gate[1])):
            grad = _convolve(grads, half, row, weights, transposed=True)
            slope = silu_slope(x[0, row].astype(jnp.float32))
            grad_x[half][0, row] = (grad * slope).astype(x.dtype)
            grad = grads[half, row + 1, pl.ds(_FIRST, width)]
            windows = _windows(features, half, row + 1)
            products = [window * grad for window in windows]
            sums = [jnp.sum(p, axis=0, keepdims=True) for p in (*products, grad)]
            grad_weights[half] += jnp.concatenate(sums)

    jax.lax.fori_loop(0, rows, one_row, None)


def _fill_features(features, halves, height):
    """Writes silu(x) into scratch, and zeros where the image ends."""
    (halo, width), rows = halves[0][0].shape[1:3], halves[0][1].shape[1]
    first = pl.program_id(2) * rows - halo
    _zero_borders(features, width)

    def write(half, row, x):
        silu = jax.nn.silu(x.astype(jnp.float32))
        features[half, row, pl.ds(_FIRST, width)] = jnp.where(
            _is_inside(first + row, height), silu, 0
        )

    for half, (above, here, below) in enumerate(halves):
        for row in range(halo):
            write(half, row, above[0, row])
            write(half, halo + rows + row, below[0, row])

        def one_row(row, _, half=half, here=here):
            write(half, halo + row, here[0, row])

        jax.lax.fori_loop(0, rows, one_row, None)


def _convolve(padded, half, row, weights, transposed=False):
    """The convolution's row whose first tap reads scratch row `row`."""
    taps = weights[half]
    terms = [
        window * taps[8 - tap if transposed else tap]
        for tap, window in enumerate(_windows(padded, half, row))
    ]
    return sum(terms) if transposed else sum(terms, taps[9])


def _windows(padded, half, row):
    """Reads what the nine taps need for one row of the image: [W, channels] each."""
    width = padded.shape[2] - _scratch_width(0)
    columns = [
        padded[half, pl.ds(row, 3), pl.ds(_FIRST - 1 + column, width)]
        for column in range(3)
    ]
    return [columns[tap % 3][tap // 3] for tap in range(9)]


def _zero_borders(padded, width):
    _, rows, _, channels = padded.shape
    zeros = jnp.zeros((rows, 1, channels), jnp.float32)
    for half in (0, 1):
        padded[half, :, pl.ds(_FIRST - 1, 1)] = zeros
        padded[half, :, pl.ds(_FIRST + width, 1)] = zeros


def _is_inside(row, height):
    return (row >= 0) & (row < height)


def _halves(x, block):
    """Arrays to read value and gate from, and the gate's first block of channels.

    Where E is a multiple of the block both are x. Otherwise the gate does not start at
    a block and XLA copies it out.
    """
    expanded = x.shape[-1] // 2
    if expanded % block:
        return x, x[..., expanded:], 0
    return x, x, expanded // block


def _block_spec(rows, width, block):
    return pl.BlockSpec((1, rows, width, block), lambda c, b, r: (b, r, 0, c))


def _halo_specs(height, width, rows, halo, block, channel_offset):
    """Blocks of the halo above, the rows themselves and the halo below.

    Beyond the image's ends any block will do: its rows are taken for zeros.
    """
    last = pl.cdiv(height, halo) - 1
    steps = rows // halo

    def spec(block_rows, row_index):
        return pl.BlockSpec(
            (1, block_rows, width, block),
            lambda c, b, r: (b, row_index(r), 0, channel_offset + c),
        )

    return (
        spec(halo, lambda r: jnp.maximum(r * steps - 1, 0)),
        spec(rows, lambda r: r),
        spec(halo, lambda r: jnp.minimum((r + 1) * steps, last)),
    )


def _padded_rows(rows, width, block):
    """Scratch for the rows of both halves, with a zero column on either side."""
    shape = (2, rows, _scratch_width(width), block)
    return pltpu.VMEM(shape, jnp.float32)


def _scratch_width(width):
    return width + 2 * _FIRST
