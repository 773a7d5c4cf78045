"""Times the convolutions of nano's stem as XLA does them, and by Winograd's filtering.

python experiments/202612_winograd/pilot.py [SIDE ...]

A pilot: nothing of this is in the package. For each side of a square LR image it prints
the median time of six residual blocks of 64 channels, their compilation and temporary
memory, and the largest difference from float64; then a whole call of nano with either.
"""

import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax import Upscaler
from linearsr_jax.core import convolution

CHANNELS, BLOCKS, RUNS = 64, 6, 9
# G of F(2x2, 3x3): Lavin and Gray, arXiv 1509.09308, sec. 4.1.
_FILTER = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

Convolution = Callable[[jax.Array, jax.Array], jax.Array]
_plain = convolution.convolve_plain


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves (B, H, W, I) with (3, 3, I, O), a row and column of zeros around.

    Tiles of 4x4 pixels, two apart, give 2x2 results each from 16 products, where the
    definition takes 36.
    """
    batch, height, width, _ = x.shape
    inputs, outputs = kernel.shape[2:]
    rows, columns = -(-height // 2), -(-width // 2)
    bottom, right = 1 + 2 * rows - height, 1 + 2 * columns - width
    padded = jnp.pad(x, ((0, 0), (1, bottom), (1, right), (0, 0)))

    def to_four(x, axis, count):
        a, b, c, d = (
            jax.lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(4)
        )
        return jnp.stack([a - c, b + c, c - b, b - d])

    def to_two(m):
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    tiles = to_four(to_four(padded, 1, rows), 3, columns).reshape(16, -1, inputs)
    g = jnp.asarray(_FILTER, x.dtype)
    filters = jnp.einsum("ai,ijcd,bj->bacd", g, kernel, g, precision="highest")
    products = jnp.einsum("ntc,ncd->ntd", tiles, filters.reshape(16, inputs, outputs))
    products = products.reshape(4, 4, batch, rows, columns, outputs)
    left, right = (to_two(x) for x in to_two(products))
    pairs = [jnp.stack([left[i], right[i]], axis=3) for i in range(2)]
    result = jnp.stack(pairs, axis=2).reshape(batch, 2 * rows, 2 * columns, outputs)
    return result[:, :height, :width]


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves the same as XLA does."""
    return _plain(x, kernel)


def make_blocks(convolve: Convolution) -> Callable[..., jax.Array]:
    """Makes the stem's residual blocks, without biases."""

    def blocks(x, kernels):
        for first, second in zip(kernels[::2], kernels[1::2], strict=True):
            x = x + convolve(jax.nn.silu(convolve(jax.nn.silu(x), first)), second)
        return x

    return jax.jit(blocks)


def median_ms(function: Callable[[], object]) -> float:
    """Times a function, the median of RUNS after one that does not count."""
    function()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def time_blocks(side: int) -> None:
    """Prints a line for each convolution."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, side, side, CHANNELS))
    kernels = rng.standard_normal((2 * BLOCKS, 3, 3, CHANNELS, CHANNELS)) / 24
    with jax.enable_x64(True):
        exact = np.asarray(make_blocks(plain)(jnp.asarray(x), [*jnp.asarray(kernels)]))
    inputs = jnp.asarray(x, jnp.float32), [*jnp.asarray(kernels, jnp.float32)]
    for convolve in (plain, winograd):
        start = time.perf_counter()
        program = make_blocks(convolve).lower(*inputs).compile()
        compiling = time.perf_counter() - start
        error = np.abs(np.asarray(program(*inputs)) - exact).max() / np.abs(exact).max()
        ms = median_ms(lambda run=program: run(*inputs).block_until_ready())
        megabytes = program.memory_analysis().temp_size_in_bytes / 1e6
        print(
            f"{side}x{side}, six blocks, {convolve.__name__}: {ms:.0f} ms, compiled in "
            f"{compiling:.2f} s, {megabytes:.0f} MB, error {error:.1e}",
            flush=True,
        )


def time_nano(side: int) -> None:
    """Prints a whole call of nano with either convolution in its stem."""
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def mixed(x, kernel, stride=1, padding=1, precision=None):
        is_wide = kernel.shape[:2] == (3, 3) and min(kernel.shape[2:]) >= 32
        if is_wide and (stride, padding) == (1, 1):
            return winograd(x, kernel)
        return _plain(x, kernel, stride, padding, precision)

    outputs = []
    for name, function in (("plain", _plain), ("winograd", mixed)):
        convolution.convolve_plain = function
        upscaler = Upscaler.from_pretrained("nano")
        outputs.append(np.asarray(upscaler(image)).astype(int))
        ms = median_ms(lambda run=upscaler: run(image))
        print(f"{side}x{side}, nano, {name}: {ms:.0f} ms", flush=True)
    most = np.abs(outputs[0] - outputs[1]).max()
    print(f"{side}x{side}, nano: pixels differ by at most {most} of 255")


if __name__ == "__main__":
    for text in sys.argv[1:] or ["128"]:
        time_blocks(int(text))
        time_nano(int(text))
