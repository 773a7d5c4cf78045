"""SiLU, depthwise convolution and gate on NVIDIA's Hopper GPUs (Pallas, Mosaic GPU).

One program is one warpgroup: 128 threads, each with its own
channels. It takes a band of rows and walks along their columns:

    grid (batch, bands of rows, channels)     channels lie on threads

The last three columns of the band and of the rows above and below it stay in
registers, so a step loads one column, the one that the next step needs. The rows that
two bands share come from the cache the second time. No shared memory: channels never
meet.

Where E is not a multiple of the block, the last block is moved back to end at E, and
overlaps the one before it. Two programs then write the same values to the same place: a
race without harm.
`api` pads an E below 128, a channel for each thread, with zeros.

Nobody has run this on a GPU yet. It is interpreted, lowered and compiled for an H100 in
the tests.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels_pallas.array_types import Array, Float
from kernels_pallas.dispatch import multiprocessors, unsupported
from kernels_pallas.glu_depthwise_conv.vjp import (
    pack_weights,
    silu_slope,
    unpack_weights,
)
from kernels_pallas.tuning import GluOnGpu, tuned

# Of a program, which is one warpgroup.
THREADS = 128
# Of a band in the gradient.
BACKWARD_ROWS = 2


def forward(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
    input_bias: Float[Array, "C"],
) -> Float[Array, "B H W C//2"]:
    """Runs the operation; float32 inside, the result in x's dtype.

    Raises:
      NotImplementedError: E is no multiple of 8.
    """
    batch, height, width, channels = x.shape
    expanded = channels // 2
    _check_size(x)
    wanted = tuned(GluOnGpu).channels
    block = wanted if expanded >= wanted else THREADS
    blocks = pl.cdiv(expanded, block)
    rows = _choose(tuned(GluOnGpu).rows, batch, height, blocks)
    silu, _ = _activation(x.dtype)

    def body(x, weights, out):
        image, first, start = _place(rows, block, expanded)
        load = functools.partial(_load_column, x, image, first - 1, rows + 2, start)
        weights = _load_weights(weights, start, block)

        def features(pixels, w):
            return _features(x, pixels, first - 1, w, weights, silu)

        def step(w, carry):
            window, ahead = carry
            # The loads of the next step are under way while this one computes.
            pixels, ahead = ahead, load(w + 2, block)
            window = (*window, features(pixels, w + 1))
            for row in range(rows):
                a, g = (_convolve(window, half, row, weights) for half in (0, 1))

                @pl.when(first + row < height)
                def _(row=row, a=a, g=g):
                    at = image, first + row, w, pl.ds(start, block)
                    out[at] = (a * silu(g)).astype(out.dtype)

            return window[1:], ahead

        columns = [load(w, block) for w in (-1, 0, 1)]
        window = features(columns[0], -1), features(columns[1], 0)
        jax.lax.fori_loop(0, width, step, (window, columns[2]))

    out_type = jax.ShapeDtypeStruct((batch, height, width, expanded), x.dtype)
    grid = batch, pl.cdiv(height, rows), blocks
    return _kernel(body, out_type, grid)(x, pack_weights(kernel, (bias, input_bias)))


def backward(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C"],
    bias: Float[Array, "C"],
    input_bias: Float[Array, "C"],
    cotangent: Float[Array, "B H W C//2"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "3 3 C"], Float[Array, "C"]]:
    """Returns the gradients of x, kernel and bias, from x and the output's cotangent.

    The sums over batch, rows and columns are float32 and in one fixed order.

    Raises:
      NotImplementedError: E is no multiple of 8.
    """
    batch, height, _, channels = x.shape
    expanded = channels // 2
    _check_size(x)
    block, rows = THREADS, BACKWARD_ROWS
    blocks = pl.cdiv(expanded, block)
    bands = _choose(tuned(GluOnGpu).gradient_bands, batch, height, blocks, rows)
    programs = pl.cdiv(height, rows * bands)

    def body(x, weights, cotangent, grad_x, grad_weights):
        image, first, start = _place(rows * bands, block, expanded)
        weights = _load_weights(weights, start, block)

        def band(index, sums):
            return _backward_band(
                x, weights, cotangent, grad_x, image, first + index * rows, start, sums
            )

        sums = ((_zeros(block),) * 10,) * 2
        sums = jax.lax.fori_loop(0, bands, band, sums)
        part = image * programs + jax.lax.axis_index("band")
        for half in (0, 1):
            for tap in range(10):
                grad_weights[part, half, tap, pl.ds(start, block)] = sums[half][tap]

    out_type = (
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((batch * programs, 2, 10, expanded), jnp.float32),
    )
    grid = batch, programs, blocks
    grad_x, parts = _kernel(body, out_type, grid)(
        x, pack_weights(kernel, (bias, input_bias)), cotangent
    )
    grad_kernel, grad_bias = unpack_weights(jnp.sum(parts, axis=0))
    return grad_x, grad_kernel.astype(kernel.dtype), grad_bias.astype(bias.dtype)


def _backward_band(x, weights, cotangent, grad_x, image, first, start, sums):
    """Writes x's gradient for BACKWARD_ROWS rows; returns the weights' gradient.

    Step w computes y's gradient in column w, and with it x's in column w - 1.
    Derivation: README.md.
    """
    rows, block = BACKWARD_ROWS, THREADS
    height, width, channels = grad_x.shape[1:]
    silu, silu_slope = _activation(x.dtype)

    def load(w):
        """x in column w, and the output's gradient in the one before."""
        pixels = _load_column(x, image, first - 2, rows + 4, start, w, block)
        grads = tuple(
            _pixel(cotangent, image, first + row - 1, w - 1, start, block)
            for row in range(rows + 2)
        )
        return pixels, grads

    def features(pixels, w):
        return _features(x, pixels, first - 2, w, weights, silu)

    def grad_of_y(window, grads, w):
        halves = [], []
        for row, pixel in enumerate(grads):
            a, g = (_convolve(window, half, row, weights) for half in (0, 1))
            is_inside = _inside(cotangent, first + row - 1, w)
            grad = jnp.where(is_inside, pixel.astype(jnp.float32), 0)
            halves[0].append(grad * silu(g))
            halves[1].append(grad * a * silu_slope(g))
        return tuple(map(tuple, halves))

    def step(w, carry):
        window, grads, ahead, sums = carry
        # The loads of the next step are under way while this one computes.
        (pixels, outputs), ahead = ahead, load(w + 2)
        window = (*window, features(pixels, w + 1))
        grads = (*grads, grad_of_y(window, outputs, w))
        sums = tuple(_add_products(window, grads[2], half, sums) for half in (0, 1))
        for half in (0, 1):
            channel = half * (channels // 2) + start
            for row in range(rows):
                grad = _convolve(grads, half, row, weights, transposed=True)
                # Beyond the image nothing is written.
                pixel = _pixel(x, image, first + row, w - 1, channel, block)
                slope = silu_slope(pixel.astype(jnp.float32) + weights[half][10])

                @pl.when((first + row < height) & (w > 0))
                def _(row=row, channel=channel, grad=grad * slope):
                    at = image, first + row, w - 1, pl.ds(channel, block)
                    grad_x[at] = grad.astype(grad_x.dtype)

        return window[1:], grads[1:], ahead, sums

    nothing = ((_zeros(block),) * (rows + 2),) * 2
    columns = [load(w) for w in (-1, 0, 1)]
    window = features(columns[0][0], -1), features(columns[1][0], 0)
    carry = window, (nothing, nothing), columns[2], sums
    return jax.lax.fori_loop(0, width + 1, step, carry)[-1]


def _add_products(window, grads, half, sums):
    """Adds one column's part of the gradient of nine taps and bias."""
    sums = list(sums[half])
    for row, grad in enumerate(grads[half][1:-1]):
        for tap in range(9):
            sums[tap] += window[tap % 3][half][row + 1 + tap // 3] * grad
        sums[9] += grad
    return tuple(sums)


def _convolve(window, half, row, weights, transposed=False):
    """The convolution in the middle one of three columns; its first tap is `row`."""
    total = None if transposed else weights[half][9]
    for tap in range(9):
        weight = weights[half][8 - tap if transposed else tap]
        product = window[tap % 3][half][row + tap // 3] * weight
        total = product if total is None else total + product
    return total


def _load_column(x, image, first, rows, start, w, block):
    """Both halves of one column by row, as they are stored; any pixel where outside."""
    offsets = start, x.shape[-1] // 2 + start
    return tuple(
        tuple(_pixel(x, image, first + row, w, offset, block) for row in range(rows))
        for offset in offsets
    )


def _features(x, pixels, first, w, weights, silu):
    """silu(x + its bias) of a loaded column; zeros outside the image."""
    return tuple(
        tuple(
            jnp.where(
                _inside(x, first + row, w),
                silu(pixel.astype(jnp.float32) + weights[half][10]),
                0,
            )
            for row, pixel in enumerate(pixels[half])
        )
        for half in (0, 1)
    )


def _pixel(array, image, row, column, start, block):
    height, width = array.shape[1:3]
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    return array[image, row, column, pl.ds(start, block)]


def _inside(array, row, column):
    height, width = array.shape[1:3]
    return (row >= 0) & (row < height) & (column >= 0) & (column < width)


def _activation(dtype):
    """SiLU and its slope, for inputs of that type.

    sigmoid(x) = (1 + tanh(x / 2)) / 2, and the device has an instruction for tanh. Its
    error, 2^-11 of the value, makes one of at most 2^-12 |x| in silu(x). For positive x
    that is an eighth of what rounding x to bfloat16 did. For x below -3, where silu is
    flat, it is more (ten times as much at -6, 1.5e-3), yet small beside other values.
    Float32 needs the exponential.
    """
    if dtype == jnp.float32:
        return jax.nn.silu, silu_slope

    def sigmoid(x):
        return 0.5 * jnp.tanh(0.5 * x) + 0.5

    def slope(x):
        value = sigmoid(x)
        return value * (1 + x * (1 - value))

    return lambda x: x * sigmoid(x), slope


def _zeros(block):
    """Zeros that lie on the threads as what is loaded does: a loop may carry them."""
    layout = plgpu.Layout.WG_STRIDED((block,), vec_size=block // 128)
    return plgpu.layout_cast(jnp.zeros((block,), jnp.float32), layout)


def _load_weights(weights, start, block):
    return tuple(
        tuple(weights[half, tap, pl.ds(start, block)] for tap in range(11))
        for half in (0, 1)
    )


def _place(rows, block, expanded):
    """This program's image, first row and first channel."""
    start = jax.lax.axis_index("channel") * block
    return (
        jax.lax.axis_index("image"),
        jax.lax.axis_index("band") * rows,
        jnp.minimum(start, expanded - block),
    )


def _choose(counts, batch, height, blocks, rows=1):
    """The first count that leaves two programs for each multiprocessor, or the last.

    A program takes so many times `rows`.
    """
    *others, last = counts
    for count in others:
        if batch * pl.cdiv(height, count * rows) * blocks >= 2 * multiprocessors():
            return count
    return last


def _check_size(x):
    """Multiples of 8 keep every load of a thread aligned."""
    expanded = x.shape[-1] // 2
    if expanded < THREADS or expanded % 8:
        reason = f"E = {expanded} must be a multiple of 8, and {THREADS} or more here"
        raise unsupported("glu_depthwise_conv", "gpu", reason, x)


def _kernel(body, out_type, grid):
    out_dtype = jax.tree.leaves(out_type)[0].dtype
    return plgpu.kernel(
        body,
        out_type=out_type,
        grid=grid,
        grid_names=("image", "band", "channel"),
        # Warpgroup semantics, the newer ones, take minutes to lower on jax 0.10.
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            # No barrier around each store, of which a step has one a row: what a
            # program reads (x, weights, cotangent) nobody writes, what it writes nobody
            # reads, and there is no shared memory that threads would hand on.
            unsafe_no_auto_barriers=True,
            # For tanh: nothing else here has an approximation.
            approx_math=out_dtype != jnp.float32,
        ),
    )
