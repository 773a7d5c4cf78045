"""Swin transformer, the trunk of RAM: turns an image into tokens.

Liu et al., "Swin Transformer" (ICCV 2021, arXiv 2103.14030).

Differs from the paper: there is no classifier and no dropped path, and images have one
size, which whole windows fill at every stage.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, Int

# Added to the logit of tokens that may not see each other; Swin uses this, not -inf.
_MASKED = -100.0


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes; the defaults are Swin-L at 384 pixels.

    Attributes:
      image_size: side in pixels.
      patch: side of a token in pixels.
      width: channels of the first stage; each further stage doubles them.
      depths: number of blocks in each stage.
      heads: number of attention heads in each stage.
      window: side of a window in tokens.
    """

    image_size: int = 384
    patch: int = 4
    width: int = 192
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (6, 12, 24, 48)
    window: int = 12

    def __post_init__(self):
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths and heads must have one length: {self}")
        if self.last_side * self.patch * 2 ** (len(self.depths) - 1) != self.image_size:
            raise ValueError(f"image_size must fill the last stage: {self}")
        if self.last_side % self.window:
            raise ValueError(f"windows must fill the last stage: {self}")

    @property
    def last_side(self) -> int:
        """Side of the last stage in tokens."""
        return self.image_size // (self.patch * 2 ** (len(self.depths) - 1))

    @property
    def last_width(self) -> int:
        """Channels of the last stage."""
        return self.width * 2 ** (len(self.depths) - 1)


class Dense(nn.Dense):
    """nn.Dense whose products stay float32 on every device."""

    precision: Any = jax.lax.Precision.HIGHEST


class Norm(nn.LayerNorm):
    """nn.LayerNorm with Swin's epsilon and, as in torch, the two-pass variance."""

    epsilon: float = 1e-5
    use_fast_variance: bool = False


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each relative position.

    Attributes:
      heads: number of heads.
      window: side of a window in tokens.
      shift: rows and columns by which the windows are moved cyclically; tokens that
        meet only because of the cycle do not see each other.
    """

    heads: int
    window: int
    shift: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Applies the attention."""
        _, height, width, channels = x.shape
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        x = _split_windows(x, self.window)  # [B, windows, tokens, C]
        qkv = Dense(3 * channels, name="qkv")(x)
        qkv = qkv.reshape(*qkv.shape[:-1], 3, self.heads, channels // self.heads)
        q, k, v = jnp.moveaxis(qkv, -3, 0)
        table = self.param(
            "bias_table",
            nn.initializers.truncated_normal(0.02),
            ((2 * self.window - 1) ** 2, self.heads),
        )
        high = jax.lax.Precision.HIGHEST
        logits = jnp.einsum("BWqHK,BWkHK->BWHqk", q, k, precision=high)
        logits *= (channels // self.heads) ** -0.5
        logits += jnp.moveaxis(table[_relative_index(self.window)], -1, 0)
        if self.shift:
            logits += _shift_mask(height, width, self.window, self.shift)
        weights = jax.nn.softmax(logits)
        x = jnp.einsum("BWHqk,BWkHK->BWqHK", weights, v, precision=high)
        x = Dense(channels, name="proj")(x.reshape(*x.shape[:-2], channels))
        x = _join_windows(x, height, width, self.window)
        return jnp.roll(x, (self.shift, self.shift), (1, 2))


class Block(nn.Module):
    """Attention and an MLP, each after a norm and with a residual connection."""

    heads: int
    window: int
    shift: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Applies the block."""
        attention = WindowAttention(
            self.heads, self.window, self.shift, name="attention"
        )
        x = x + attention(Norm(name="norm1")(x))
        y = Norm(name="norm2")(x)
        y = nn.gelu(Dense(4 * x.shape[-1], name="fc1")(y), approximate=False)
        return x + Dense(x.shape[-1], name="fc2")(y)


class Merge(nn.Module):
    """Patch merging: halves the sides and doubles the channels."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 2*C"]:
        """Applies the merging."""
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        y = Norm(name="norm")(jnp.concatenate(corners, -1))
        return Dense(2 * x.shape[-1], use_bias=False, name="reduction")(y)


class Swin(nn.Module):
    """Turns an image into the tokens of the last stage and their mean."""

    config: SwinConfig

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B T C"]:
        """Applies the network; returns the mean token, then the tokens row by row."""
        config = self.config
        patch = (config.patch, config.patch)
        x = nn.Conv(
            config.width,
            patch,
            patch,
            "VALID",
            precision=jax.lax.Precision.HIGHEST,
            name="patch_conv",
        )(image)
        x = Norm(name="patch_norm")(x)
        for stage, (depth, heads) in enumerate(
            zip(config.depths, config.heads, strict=True)
        ):
            if stage:
                x = Merge(name=f"merge_{stage - 1}")(x)
            is_one_window = x.shape[1] == config.window
            for index in range(depth):
                is_shifted = index % 2 == 1 and not is_one_window
                x = Block(
                    heads,
                    config.window,
                    config.window // 2 if is_shifted else 0,
                    name=f"stage_{stage}_block_{index}",
                )(x)
        x = Norm(name="norm")(x)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)


def _split_windows(x: Array, window: int) -> Float[Array, "B windows tokens C"]:
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x.reshape(batch, rows, window, columns, window, channels).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, window**2, channels)


def _join_windows(x: Array, height: int, width: int, window: int) -> Array:
    batch, channels = x.shape[0], x.shape[-1]
    rows, columns = height // window, width // window
    x = x.reshape(batch, rows, columns, window, window, channels).swapaxes(2, 3)
    return x.reshape(batch, height, width, channels)


def _relative_index(window: int) -> Int[np.ndarray, "tokens tokens"]:
    """Returns the row of the bias table for each query and key."""
    row, column = np.divmod(np.arange(window**2), window)
    down = row[:, None] - row[None] + window - 1
    right = column[:, None] - column[None] + window - 1
    return down * (2 * window - 1) + right


def _shift_mask(
    height: int, width: int, window: int, shift: int
) -> Float[np.ndarray, "windows 1 tokens tokens"]:
    def regions(length):
        # The cycle brought rows of two places together in the last window.
        return np.repeat([0, 1, 2], [length - window, window - shift, shift])

    ids = 3 * regions(height)[:, None] + regions(width)[None]
    ids = _split_windows(ids[None, :, :, None], window)[0, :, :, 0]
    differ = ids[:, :, None] != ids[:, None, :]
    return np.where(differ, np.float32(_MASKED), np.float32(0))[:, None]
