"""Embeds what the network sees beside the latents: time, place, LR image, tags.

Differs from the paper in the tags, which in pixel presets have a learned vector each
and no text encoder, and in the LR stem, where residual blocks may follow. The paper
does not give the width of the stem nor its last activation; see `LRStem`. Time and
place are SANA's.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Bool, Float, Int
from linearsr_jax.core.convolution import convolve, convolve_plain
from linearsr_jax.diffusion.schedule import TIMESTEP_SCALE
from linearsr_jax.models.layers import Dense, RMSNorm, with_axes

TIMESTEP_FEATURES = 256
_small_normal = nn.initializers.normal(0.02)
_fan_in = nn.initializers.lecun_normal()


class Condition(NamedTuple):
    """Tags or features that describe the image beside its pixels.

    Attributes:
      tokens: features, float, or for models that know tags their indices, integer;
        the order has no meaning.
      mask: True for tokens that are there. A sample without any is one without tags.
    """

    tokens: Float[Array, "B T F"] | Int[Array, "B T"]
    mask: Bool[Array, "B T"]


def timestep_features(
    sigma: Float[Array, "B"], *, floor: bool = False
) -> Float[Array, "B 256"]:
    """Computes [cos | sin] of timestep * 10000^(-k / 128), k = 0..127, float32 (SANA).

    Args:
      sigma: noise levels in [0, 1].
      floor: take the whole number below, at most 999: the only timesteps that SANA
        was trained with. Pure noise is 1000 otherwise.
    """
    half = TIMESTEP_FEATURES // 2
    frequency = jnp.exp(-jnp.log(10000.0) * jnp.arange(half) / half)
    timestep = TIMESTEP_SCALE * sigma.astype(jnp.float32)
    if floor:
        timestep = jnp.minimum(jnp.floor(timestep), TIMESTEP_SCALE - 1)
    angle = timestep[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def position_embedding(
    grid: tuple[int, int],
    width: int,
    extent: float,
    rows: int | None = None,
    first_row: int | Int[Array, ""] = 0,
) -> Float[Array, "N D"]:
    """Computes sines and cosines of a token's place, float32 (SANA at 2K and 4K).

    Token (row i, column j) of a grid (h, w) stands at y = extent i / h,
    x = extent j / w, whatever the grid. The first half of the channels is
    [sin | cos] of x 10000^(-k / (D/4)), k = 0 .. D/4 - 1, the second that of y.

    Args:
      grid: (h, w).
      width: D, a multiple of 4.
      extent: SANA's base size over its interpolation scale.
      rows: number of rows that the tokens fill, N = rows w; by default all.
      first_row: first of these rows.
    """
    quarter = width // 4
    frequency = 10000.0 ** (-np.arange(quarter) / quarter)

    def along(size):
        # Before compiling, where it is small, and in float64 but for the coordinates:
        # SANA rounds them, which on odd grids shows in its output.
        place = np.arange(size, dtype=np.float32) / np.float32(size / extent)
        angle = place[:, None].astype(np.float64) * frequency
        sines = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
        return jnp.asarray(sines, jnp.float32)

    rows = grid[0] if rows is None else rows
    shape = (rows, grid[1], 2 * quarter)
    y = jax.lax.dynamic_slice_in_dim(along(grid[0]), first_row, rows)
    parts = (along(grid[1]), y[:, None])
    parts = [jnp.broadcast_to(part, shape) for part in parts]
    return jnp.concatenate(parts, axis=-1).reshape(-1, width)


class TimeEmbedding(nn.Module):
    """adaLN-single: one embedding of sigma for all blocks.

    Attributes:
      width: D.
      floor_timestep: see `timestep_features`.
      dtype: computation type.
    """

    width: int
    floor_timestep: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, sigma: Float[Array, "B"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B 6 D"]]:
        """Returns (e, t6): for the final layer, and for the blocks' modulation."""
        e = timestep_features(sigma, floor=self.floor_timestep).astype(self.dtype)
        how = self.dtype, True, _small_normal
        e = Dense(self.width, (None, "embed"), *how)(e)
        e = Dense(self.width, ("embed", None), *how)(nn.silu(e))
        t6 = Dense(6 * self.width, ("embed", None), *how, name="blocks")(nn.silu(e))
        return e, t6.reshape(-1, 6, self.width)


class TagEmbedding(nn.Module):
    """A learned vector for each tag; condition tokens have no order and no position.

    Attributes:
      count: number of tags.
      features: F, the width of a vector.
    """

    count: int
    features: int

    @nn.compact
    def __call__(self, tags: Int[Array, "B T"]) -> Float[Array, "B T F"]:
        """Looks up the vectors of indices in [0, count)."""
        table = self.param(
            "table",
            with_axes(nn.initializers.normal(1.0), (None, None)),
            (self.count, self.features),
        )
        return table[tags]


class ConditionProjection(nn.Module):
    """Projects condition tokens (tags) to the width and normalises them.

    Attributes:
      width: D.
      dtype: computation type.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Float[Array, "B T F"]) -> Float[Array, "B T D"]:
        """Applies two layers with tanh-GELU, and an RMS norm of initial weight 0.01."""
        y = Dense(self.width, (None, "embed"), self.dtype, True, _small_normal)(tokens)
        y = nn.gelu(y, approximate=True)
        y = Dense(self.width, (None, "embed"), self.dtype, True, _small_normal)(y)
        return RMSNorm(initial=0.01, name="norm")(y)


class LRStem(nn.Module):
    """3x3 convolutions from the LR image to the latent grid (the paper's E_conv).

    The first three change the width, and the last log2(codec factor / 4) of them halve
    the resolution: all three for an f32 codec, as in the paper, none for f4. The paper
    does not give the widths nor the last activation; we chose SiLU between the
    convolutions and none at the end. Residual blocks may follow, which the paper does
    not have: x + conv(silu(conv(silu(x)))), the last convolution zero at first. What is
    local is cheaper to learn there than in blocks that mix all tokens.

    Attributes:
      widths: channels after each of the three convolutions.
      strides: 1 or 2 for each.
      dtype: computation type.
      blocks: residual blocks after them.
      implementation: "reference" allows forward-mode differentiation.
    """

    widths: tuple[int, int, int]
    strides: tuple[int, ...]
    dtype: jnp.dtype
    blocks: int = 0
    implementation: str | None = None

    @nn.compact
    def __call__(self, image_lr: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """Computes the features of an image in [-1, 1]."""
        x = image_lr.astype(self.dtype)
        for i, (width, stride) in enumerate(
            zip(self.widths, self.strides, strict=True)
        ):
            if i:
                x = nn.silu(x)
            x = self._convolve(x, width, stride, f"{i}")
        for i in range(self.blocks):
            y = self._convolve(nn.silu(x), x.shape[-1], 1, f"block_{i}_0")
            zeros = nn.initializers.zeros
            y = self._convolve(nn.silu(y), x.shape[-1], 1, f"block_{i}_1", zeros)
            x = x + y
        return x

    def _convolve(self, x, width, stride, name, kernel_init=_fan_in):
        kernel = self.param(
            f"kernel_{name}",
            with_axes(kernel_init, (None, None, None, None)),
            (3, 3, x.shape[-1], width),
        )
        bias = self.param(
            f"bias_{name}",
            with_axes(nn.initializers.zeros, (None,)),
            (width,),
        )
        of_form = convolve_plain if self.implementation == "reference" else convolve
        x = of_form(x, kernel.astype(self.dtype), stride)
        # In float32, so that the bias' gradient, a sum over all pixels, is.
        return (x.astype(jnp.float32) + bias).astype(self.dtype)
