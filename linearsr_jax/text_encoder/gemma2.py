"""Gemma 2 without its head: SANA's text encoder, which turns tokens into features.

Gemma Team, "Gemma 2" (2024, arXiv 2408.00118). A token sees only those before it, so
its features do not depend on what follows. Layers 0, 2, 4, ... see only `window`
tokens back, which is more than SANA's texts have.

Differs from transformers: in bfloat16 the rotation and the attention logits stay
float32 here; transformers rounds them.
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
      vocabulary: number of tokens, the rows of the embedding.
      width: width of the features.
      hidden: width of the MLP.
      layers: number of layers.
      heads: number of query heads, a multiple of kv_heads.
      kv_heads: number of key and value heads.
      head_size: channels per head, even.
      rope_base: base of the wavelengths of the rotary embedding.
      eps: epsilon of the norms.
      query_scalar: queries are divided by its square root.
      logit_cap: bound on the absolute value of attention logits.
      window: tokens that layers 0, 2, 4, ... see, including the own one.
      bos, pad: ids of the token that begins a text and of padding.
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
                raise ValueError(f"{field.name} cannot be {value!r}")
        if self.heads % self.kv_heads or self.head_size % 2:
            raise ValueError(
                f"kv_heads must divide heads, and head_size be even: {self}"
            )
        if max(self.bos, self.pad) >= self.vocabulary:
            raise ValueError(f"bos and pad must be below vocabulary: {self}")

    def to_dict(self) -> dict[str, Any]:
        """Converts the fields to values that JSON can store."""
        return dataclasses.asdict(self)


class Norm(nn.Module):
    """RMS norm, x rsqrt(mean(x^2) + eps) (1 + weight), computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalizes x; the result has the dtype of x."""
        weight = self.param("weight", nn.initializers.zeros, (x.shape[-1],))
        full = x.astype(jnp.float32)
        power = jnp.mean(jnp.square(full), axis=-1, keepdims=True)
        full = full * jax.lax.rsqrt(power + self.eps)
        return (full * (1 + weight.astype(jnp.float32))).astype(x.dtype)


class Dense(nn.Module):
    """Matrix product x @ kernel in the dtype of x, without bias.

    The kernel may be stored as bits; see `as_bits`.
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
    """Attention and a gated MLP, with a norm before and after each."""

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
        """Applies the layer.

        Args:
          x: tokens.
          is_sliding: whether this layer sees a limited window.
          sees: True where a token sees another, for an unlimited window.
          sees_near: the same for a limited window.
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
        # Neighbouring query heads share keys and values: G groups of R heads.
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
        # Not -inf, because padding may see nothing at all.
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
    """Turns tokens into features, taken after the last norm.

    Attributes:
      config: sizes.
      dtype: type of the computation and the features; parameters may have another.
    """

    config: Gemma2Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Applies the network.

        Args:
          tokens: token ids, padded at the end.
          mask: False for padding, which no token sees.
        """
        config = self.config
        embedding = self.param(
            "embedding", nn.initializers.normal(), (config.vocabulary, config.width)
        )
        # Round the factor too, as training did.
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
    """Applies rotary position embedding.

    Token t rotates channels j and j + K/2 by the angle t base^(-2j/K).
    """
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
    """Views bfloat16 kernels as uint16, without copying, for `Gemma2`.

    Given bfloat16 kernels, XLA on CPU converts those of all layers to float32 before
    the first layer, which takes 8.4 GB more for the 2B. Given their bits, it converts
    one layer at a time.
    """

    def view(path, x):
        is_kernel = path[-1].key == "kernel" and x.dtype == jnp.bfloat16
        return x.view(np.uint16) if is_kernel else x

    return jax.tree_util.tree_map_with_path(view, params)


def parameter_shapes(config: Gemma2Config) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the parameters, as in a weights file.

    The layers are stacked along the first axis.
    """
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    abstract = jax.eval_shape(Gemma2(config).init, jax.random.key(0), tokens, mask)
    flat = traverse_util.flatten_dict(abstract["params"], sep=".")
    return {name: tuple(value.shape) for name, value in flat.items()}
