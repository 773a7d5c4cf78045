"""Compresses and decompresses JPEG in jax.numpy, as libjpeg does.

Baseline JPEG (ITU-T T.81) with 4:2:0 chroma and the tables of its Annex K, scaled by
quality like libjpeg's jpeg_set_quality. Lossless parts (zigzag, Huffman coding) are
left out. Sample positions, borders and integer roundings follow libjpeg; its integer
cosine transforms are computed in float32, so some values differ by one level.

Differs from libjpeg for images at most 4 pixels wide, whose chroma libjpeg repeats
rather than interpolates.
"""

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, Int

_LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.int32,
)
_CHROMA_TABLE = np.full((8, 8), 99, np.int32)
_CHROMA_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]

# From JFIF: R, G, B to Y, Cb - 128, Cr - 128.
_TO_YCC = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ],
    np.float32,
)


def _cosines() -> np.ndarray:
    """Computes the orthonormal 8-point DCT-II: (frequency, position)."""
    frequency, position = np.arange(8)[:, None], np.arange(8)
    cosines = np.cos((2 * position + 1) * frequency * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    return cosines.astype(np.float32)


_DCT = _cosines()


def quantization_tables(
    quality: Int[Array, ""],
) -> tuple[Float[Array, "8 8"], Float[Array, "8 8"]]:
    """Computes the divisors of luma and chroma coefficients for a quality.

    Args:
      quality: 1 to 100; may be traced.
    """
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)

    def scaled(table):
        return jnp.clip((table * percent + 50) // 100, 1, 255).astype(jnp.float32)

    return scaled(_LUMA_TABLE), scaled(_CHROMA_TABLE)


def jpeg(
    levels: Float[Array, "3 H W"],
    height: Int[Array, ""] | int,
    width: Int[Array, ""] | int,
    quality: Int[Array, ""],
) -> Float[Array, "3 H W"]:
    """Compresses and decompresses the image in the top-left corner of a buffer.

    Args:
      levels: RGB, whole numbers in [0, 255].
      height, width: size of the image in pixels; may be traced.
      quality: 1 to 100.

    Returns:
      Whole numbers in [0, 255]; values beyond height and width are undefined.
    """
    rows, columns = levels.shape[1:]
    # Fill up whole 16x16 units by repeating the border. The rows are repeated by a
    # product: XLA for CPU recomputes what a gather reads (here, noise) for each use of
    # the result, but computes a product once.
    chosen = jax.nn.one_hot(_clamped(-(-rows // 16) * 16, height), rows)
    levels = jnp.einsum("oi,cij->coj", chosen, levels, precision="highest")
    levels = _take(levels, _clamped(-(-columns // 16) * 16, width), 2)
    luma_table, chroma_table = quantization_tables(quality)
    ycc = jnp.einsum("yc,chw->yhw", _TO_YCC, levels, precision="highest")
    luma = _compress(jnp.floor(ycc[:1] + 0.5) - 128, luma_table) + 128
    chroma = jnp.floor(ycc[1:] + 0.49999)
    # libjpeg repeats the last row of chroma after halving, not before.
    chroma_rows = (height + 1) // 2
    small = _halve(chroma)
    small = _take(small, _clamped(small.shape[1], chroma_rows), 1)
    small = _compress(small, chroma_table)
    chroma = _double(small, chroma_rows, (width + 1) // 2)
    return _to_rgb(_to_level(luma)[0], chroma)[:, :rows, :columns]


def _take(image, indices, axis):
    return jnp.take(image, indices, axis=axis, mode="clip")


def _clamped(count, size):
    return jnp.minimum(jnp.arange(count), size - 1)


def _to_level(values):
    return jnp.clip(jnp.floor(values + 0.5), 0, 255)


def _compress(planes, table):
    """Transforms 8x8 blocks, quantizes, and transforms back."""
    count, rows, columns = planes.shape
    blocks = planes.reshape(count, rows // 8, 8, columns // 8, 8)
    blocks = jnp.einsum(
        "ui,caibj,vj->cabuv", _DCT, blocks, _DCT, precision="highest", optimize=True
    )
    # Round to whole eighths, as libjpeg's transform does, and halves away from zero;
    # flat blocks hit halves often.
    eighths = jnp.rint(8 * blocks)
    levels = jnp.floor((jnp.abs(eighths) + 4 * table) / (8 * table))
    blocks = jnp.sign(eighths) * levels * table
    blocks = jnp.einsum(
        "ui,cabuv,vj->caibj", _DCT, blocks, _DCT, precision="highest", optimize=True
    )
    return blocks.reshape(planes.shape)


def _halve(planes):
    """Averages 2x2 pixels; halves round down in even columns and up in odd ones."""
    pairs = planes[:, 0::2] + planes[:, 1::2]
    sums = pairs[:, :, 0::2] + pairs[:, :, 1::2]
    bias = 1 + jnp.arange(sums.shape[2]) % 2
    return jnp.floor((sums + bias) / 4)


def _double(planes, rows, columns):
    """Doubles the size; per axis, 3/4 of the nearest pixel and 1/4 of the next."""
    planes = jnp.clip(jnp.floor(planes + 0.5), -128, 127)
    # Sums of four, then of sixteen, rounded once at the end.
    planes = _interleave(*_with_neighbours(planes, rows, 1), 1)
    even, odd = _with_neighbours(planes, columns, 2)
    return _interleave(jnp.floor((even + 8) / 16), jnp.floor((odd + 7) / 16), 2)


def _with_neighbours(planes, size, axis):
    index = jnp.arange(planes.shape[axis])
    before = _take(planes, jnp.maximum(index - 1, 0), axis)
    after = _take(planes, jnp.minimum(index + 1, size - 1), axis)
    return 3 * planes + before, 3 * planes + after


def _interleave(even, odd, axis):
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis=axis + 1).reshape(shape)


def _to_rgb(luma, chroma):
    blue, red = chroma
    rgb = jnp.stack(
        [
            luma + jnp.floor(1.402 * red + 0.5),
            luma + jnp.floor(-0.344136286 * blue - 0.714136286 * red + 0.5),
            luma + jnp.floor(1.772 * blue + 0.5),
        ]
    )
    return jnp.clip(rgb, 0, 255)
