"""The transformer block: linear attention, cross-attention, Mix-FFN (SANA)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kernels_pallas import glu_depthwise_conv
from linearsr_jax.core.array_types import Array, Bool, Float
from linearsr_jax.models.layers import (
    Dense,
    RMSNorm,
    modulated_layer_norm,
    with_axes,
)
from linearsr_jax.models.linear_attention import LinearSelfAttention

# Of condition tokens, as `CrossAttention.keys_and_values` makes them.
KeysAndValues = tuple[Float[Array, "B T D"], Float[Array, "B T D"]]


class CrossAttention(nn.Module):
    """Softmax attention from image tokens to condition tokens.

    Attributes:
      width: D.
      heads: number of heads.
      qk_norm: RMS norm on q and k over all channels.
      zero_init: zero output projection, so that a model trained without tags is
        unchanged by the first ones it sees. SANA's is not zero.
      dtype: computation type; the softmax is float32.
    """

    width: int
    heads: int
    qk_norm: bool
    zero_init: bool
    dtype: jnp.dtype

    def setup(self):
        """Makes the layers; kv is one product for both."""
        self.q = Dense(self.width, ("embed", "heads"), self.dtype)
        self.kv = Dense(2 * self.width, ("embed", "heads"), self.dtype)
        if self.qk_norm:
            self.q_norm = RMSNorm()
            self.k_norm = RMSNorm()
        kernel_init = (
            nn.initializers.zeros
            if self.zero_init
            else nn.initializers.xavier_uniform()
        )
        self.out = Dense(self.width, ("heads", "embed"), self.dtype, True, kernel_init)

    def keys_and_values(self, condition: Float[Array, "B T D"]) -> KeysAndValues:
        """Computes what depends on the condition alone: the same in every step."""
        key, value = jnp.split(self.kv(condition), 2, axis=-1)
        return (self.k_norm(key) if self.qk_norm else key), value

    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        keys_and_values: KeysAndValues,
        mask: Bool[Array, "B T"],
    ) -> Float[Array, "B N D"]:
        """Attends; samples whose mask is all False (no tags) give exactly 0."""
        query = self.q(tokens)
        if self.qk_norm:
            query = self.q_norm(query)
        size = self.width // self.heads
        query, key, value = (
            x.reshape(*x.shape[:2], self.heads, size) for x in (query, *keys_and_values)
        )
        logits = jnp.einsum(
            "bnhk,bthk->bhnt", query, key, preferred_element_type=jnp.float32
        )
        logits = jnp.where(mask[:, None, None], logits / size**0.5, -1e30)
        weight = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhnt,bthk->bnhk", weight, value)
        out = self.out(mixed.reshape(tokens.shape))
        return jnp.where(jnp.any(mask, axis=-1)[:, None, None], out, 0)


class MixFFN(nn.Module):
    """Expand, SiLU, 3x3 depthwise convolution, gate, project (GLUMBConv).

    Attributes:
      width: D.
      expanded: E, channels after the gate; twice as many before.
      dtype: computation type.
      implementation: see `kernels_pallas.glu_depthwise_conv`.
    """

    width: int
    expanded: int
    dtype: jnp.dtype
    implementation: str | None

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], grid: tuple[int, int]
    ) -> Float[Array, "B N D"]:
        """Runs on the token grid (h, w), h * w = N, row-major, zero padding."""
        expand = Dense(2 * self.expanded, ("embed", "mlp"), self.dtype, name="expand")
        x, input_bias = expand.apart(tokens)
        kernel = self.param(
            "kernel",
            # Uniform in +-1/sqrt(fan in), fan in 9: torch's default for this layer.
            with_axes(_uniform(1 / 3), (None, None, "mlp")),
            (3, 3, 2 * self.expanded),
        )
        bias = self.param(
            "bias",
            with_axes(_uniform(1 / 3), ("mlp",)),
            (2 * self.expanded,),
        )
        x = glu_depthwise_conv(
            x.reshape(-1, *grid, 2 * self.expanded),
            kernel.astype(self.dtype),
            bias.astype(self.dtype),
            input_bias,
            implementation=self.implementation,
        ).reshape(*tokens.shape[:2], self.expanded)
        return Dense(
            self.width, ("mlp", "embed"), self.dtype, use_bias=False, name="project"
        )(x)


class Block(nn.Module):
    """x + gate attention; x + cross-attention; x + gate Mix-FFN.

    Attributes: as `LinearDiT`.
    """

    width: int
    heads: int
    cross_heads: int
    expanded: int
    qk_norm: bool
    cross_zero_init: bool
    attention_floor: float
    dtype: jnp.dtype
    implementation: str | None

    def setup(self):
        """Makes the three parts."""
        self.scale_shift_table = self.param(
            "scale_shift_table",
            with_axes(nn.initializers.normal(self.width**-0.5), (None, None)),
            (6, self.width),
        )
        self.attention = LinearSelfAttention(
            width=self.width,
            heads=self.heads,
            qk_norm=self.qk_norm,
            floor=self.attention_floor,
            dtype=self.dtype,
            implementation=self.implementation,
        )
        self.cross_attention = CrossAttention(
            self.width,
            self.cross_heads,
            self.qk_norm,
            self.cross_zero_init,
            self.dtype,
        )
        self.ffn = MixFFN(self.width, self.expanded, self.dtype, self.implementation)

    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        t6: Float[Array, "B 6 D"],
        keys_and_values: KeysAndValues | None,
        mask: Bool[Array, "B T"] | None,
        grid: tuple[int, int],
        state: Float[Array, "B H K K+1"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Applies the block.

        Args:
          tokens: tokens of the whole grid or, with state, of some of its rows; then the
            first and the last row are wrong unless they are those of the grid.
          t6: modulation from `TimeEmbedding`.
          keys_and_values, mask: keys, values and mask of the condition; if None, the
            cross-attention adds nothing.
          grid: (h, w) of the tokens.
          state: sum of `state` over the rows of the whole grid.
        """
        tokens = self.add_attention(tokens, t6, state)
        if keys_and_values is not None and mask is not None:
            tokens = tokens + self.cross_attention(tokens, keys_and_values, mask)
        return self.add_ffn(tokens, t6, grid)

    def add_attention(
        self,
        tokens: Float[Array, "B N D"],
        t6: Float[Array, "B 6 D"],
        state: Float[Array, "B H K K+1"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Applies the first part; arguments as for the whole."""
        shift, scale, gate, *_ = self._modulation(t6)
        normal = modulated_layer_norm(tokens, shift, scale)
        return tokens + _gated(gate, self.attention(normal, state))

    def add_ffn(
        self,
        tokens: Float[Array, "B N D"],
        t6: Float[Array, "B 6 D"],
        grid: tuple[int, int],
    ) -> Float[Array, "B N D"]:
        """Applies the last part; arguments as for the whole."""
        *_, shift, scale, gate = self._modulation(t6)
        normal = modulated_layer_norm(tokens, shift, scale)
        return tokens + _gated(gate, self.ffn(normal, grid))

    def keys_and_values(self, condition: Float[Array, "B T D"]) -> KeysAndValues:
        """See `CrossAttention.keys_and_values`."""
        return self.cross_attention.keys_and_values(condition)

    def state(
        self, tokens: Float[Array, "B N D"], t6: Float[Array, "B 6 D"]
    ) -> Float[Array, "B H K K+1"]:
        """Computes what a part of the block's input adds to its attention's state."""
        shift, scale, *_ = self._modulation(t6)
        return self.attention.state(modulated_layer_norm(tokens, shift, scale))

    def _modulation(self, t6):
        # Float32: its gradients are sums over all tokens.
        modulation = self.scale_shift_table + t6
        return (modulation[:, i] for i in range(6))


def _gated(gate, x):
    return (gate[:, None] * x.astype(jnp.float32)).astype(x.dtype)


def _uniform(bound: float):
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
