"""Gemma 2, the text encoder of SANA: tokens to features; the decoder without its head.

Gemma Team, "Gemma 2" (2024, arXiv 2408.00118). Each token sees those before it, so a
text's features do not depend on what follows. Every second layer, the first included,
sees `window` tokens back only: more than SANA's texts have.

Differs from transformers in: in bfloat16 the rotation and the attention's logits are
float32 here, and rounded there.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from linearsr_jax.core.array_types import Array, Bool, Float, Int, PyTree

_HIGH = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Gemma2Config:
    """Sizes; the defaults are Gemma 2 2B, 2,614,341,888 parameters.

    Attributes:
      vocabulary: rows of the embedding.
      width: of the features.
      hidden: of the MLP.
      layers: their number.
      heads, kv_heads: of queries, and of keys and values; the former is a multiple.
      head_size: channels a head, even.
      rope_base: of the rotation's wavelengths.
      eps: of the norms.
      query_scalar: queries are divided by its root.
      logit_cap: attention logits stay within -logit_cap .. logit_cap.
      window: tokens that the layers 0, 2, 4 ... see, the own included.
      bos, pad: ids of what begins a text and of what fills up a batch.
    """

    vocabulary: int = 256000
    width: int = 2304
    hidden: int = 9216
    layers: int = 26
    heads: int = 8
    kv_heads: int = 4
    head_size: int = 256
    rope_base: float = 10000.0
    eps: float = 1e-6
    query_scalar: float = 256.0
    logit_cap: float = 50.0
    window: int = 4096
    bos: int = 2
    pad: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            types = (int,) if field.type is int else (int, float)
            lowest = 0 if field.name in ("bos", "pad") else 1e-30
            if type(value) not in types or not lowest <= value < float("inf"):
                raise ValueError(f"{field.name} is {value!r}, no such size")
        if self.heads % self.kv_heads or self.head_size % 2:
            raise ValueError(f"heads must share kv_heads, head_size be even: {self}")
        if max(self.bos, self.pad) >= self.vocabulary:
            raise ValueError(f"bos and pad must be in the vocabulary: {self}")

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-able."""
        return dataclasses.asdict(self)


class Norm(nn.Module):
    """x rsqrt(mean(x^2) + eps) (1 + weight), computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalises, in x's dtype."""
        weight = self.param("weight", nn.initializers.zeros, (x.shape[-1],))
        full = x.astype(jnp.float32)
        power = jnp.mean(jnp.square(full), axis=-1, keepdims=True)
        full = full * jax.lax.rsqrt(power + self.eps)
        return (full * (1 + weight.astype(jnp.float32))).astype(x.dtype)


class Dense(nn.Module):
    """x @ kernel, in x's dtype.

    A kernel may be given as its bits; see `as_bits`.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... features"]:
        """Applies the product to the last axis."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        if kernel.dtype == jnp.uint16:
            kernel = jax.lax.bitcast_convert_type(kernel, jnp.bfloat16)
        return jnp.matmul(x, kernel.astype(x.dtype), precision=_HIGH)


class Layer(nn.Module):
    """Attention and a gated MLP, each between two norms."""

    config: Gemma2Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        is_sliding: Bool[Array, ""],
        sees: Bool[Array, "B T T"],
        sees_near: Bool[Array, "B T T"],
    ) -> tuple[Float[Array, "B T D"], None]:
        """Applies it.

        Args:
          x: the tokens.
          is_sliding: whether this layer's window is limited.
          sees: which token sees which, without a limit.
          sees_near: with it.
        """
        config = self.config
        mask = jnp.where(is_sliding, sees_near, sees)
        y = self._norm("attention_norm", x)
        y = self._attend(y, mask)
        x = x + self._norm("attention_out_norm", y)
        y = self._norm("mlp_norm", x)
        gate = self._dense("gate", config.hidden, y)
        y = nn.gelu(gate, approximate=True) * self._dense("up", config.hidden, y)
        y = self._dense("down", config.width, y)
        return x + self._norm("mlp_out_norm", y), None

    def _attend(self, x, mask):
        config = self.config
        batch, length, _ = x.shape

        def heads(name, count):
            y = self._dense(name, count * config.head_size, x)
            return y.reshape(batch, length, count, config.head_size)

        q = rotate(heads("query", config.heads), config.rope_base)
        k = rotate(heads("key", config.kv_heads), config.rope_base)
        v = heads("value", config.kv_heads)
        # Neighbouring heads share keys and values: (kv_heads G, heads of each R).
        q = q.reshape(batch, length, config.kv_heads, -1, config.head_size)
        logits = jnp.einsum(
            "BTGRK,BSGK->BGRTS",
            q,
            k,
            precision=_HIGH,
            preferred_element_type=jnp.float32,
        )
        logits = logits * config.query_scalar**-0.5
        logits = config.logit_cap * jnp.tanh(logits / config.logit_cap)
        # Not -inf: padding may see nothing at all.
        lowest = jnp.finfo(jnp.float32).min
        logits = jnp.where(mask[:, None, None], logits, lowest)
        weights = nn.softmax(logits).astype(self.dtype)
        y = jnp.einsum("BGRTS,BSGK->BTGRK", weights, v, precision=_HIGH)
        return self._dense("out", config.width, y.reshape(batch, length, -1))

    def _norm(self, name, x):
        return Norm(self.config.eps, name=name)(x)

    def _dense(self, name, features, x):
        return Dense(features, name=name)(x)


class Gemma2(nn.Module):
    """Tokens to features, after the last norm.

    Attributes:
      config: sizes.
      dtype: of the computation and of the features; parameters may have another.
    """

    config: Gemma2Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Applies it.

        Args:
          tokens: ids, padded at the end.
          mask: True for tokens that are there; no token sees the others.
        """
        config = self.config
        embedding = self.param(
            "embedding", nn.initializers.normal(), (config.vocabulary, config.width)
        )
        # The factor is rounded too, as in training.
        scale = jnp.asarray(config.width**0.5, self.dtype)
        x = embedding[tokens].astype(self.dtype) * scale
        place = jnp.arange(tokens.shape[1])
        back = place[:, None] - place
        sees = (back >= 0) & mask[:, None]
        sees_near = sees & (back < config.window)
        scanned = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=config.layers,
        )
        is_sliding = jnp.arange(config.layers) % 2 == 0
        layers = scanned(config, self.dtype, name="layers")
        x, _ = layers(x, is_sliding, sees, sees_near)
        return Norm(config.eps, name="norm")(x)


def rotate(x: Float[Array, "B T H K"], base: float) -> Float[Array, "B T H K"]:
    """Rotary position embedding: channels j and j + K/2 turn by T base^(-2j/K)."""
    half = x.shape[-1] // 2
    frequencies = np.float32(1) / np.float32(base) ** (
        np.arange(half, dtype=np.float32) / np.float32(half)
    )
    angles = np.arange(x.shape[1], dtype=np.float32)[:, None, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x.dtype)


def as_bits(params: PyTree) -> PyTree:
    """The parameters with bfloat16 kernels as uint16, without a copy.

    For `Gemma2`: from numbers XLA on CPU makes float32 of all layers' kernels before
    the first layer, 8.4 GB more of the 2B; from their bits, of one layer at a time.
    """

    def view(path, x):
        is_kernel = path[-1].key == "kernel" and x.dtype == jnp.bfloat16
        return x.view(np.uint16) if is_kernel else x

    return jax.tree_util.tree_map_with_path(view, params)


def parameter_shapes(config: Gemma2Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters, as in a weights file; layers are stacked."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    abstract = jax.eval_shape(Gemma2(config).init, jax.random.key(0), tokens, mask)
    flat = traverse_util.flatten_dict(abstract["params"], sep=".")
    return {name: tuple(value.shape) for name, value in flat.items()}
