"""The transformer block: linear attention, cross-attention, Mix-FFN (SANA)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kernels_pallas import glu_depthwise_conv
from kernels_pallas.dispatch import preferred_form, target_device
from linearsr_jax.core.array_types import Array, Bool, Float
from linearsr_jax.models.layers import (
    Dense,
    RMSNorm,
    modulated_layer_norm,
    with_axes,
)
from linearsr_jax.models.linear_attention import TELEMETRY, LinearSelfAttention

# On CPU a block takes a large image a band of rows, or of tokens, at a time: what it
# makes of them stays in the cache, and little of it in memory. The result is the same
# up to the order of the attention's sums. Training's crops are smaller, and have a
# gradient, for which a loop would keep everything.
BAND_ROWS, LEAST_ROWS_IN_BANDS = 16, 96
BAND_TOKENS, LEAST_TOKENS_IN_BANDS = 2048, 12288

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
      implementation: "gpu" attends with cuDNN, which does not write the logits to
        memory, where it takes the input; all others with XLA. None takes what
        `kernels_pallas.dispatch.PREFERRED` says.
    """

    width: int
    heads: int
    qk_norm: bool
    zero_init: bool
    dtype: jnp.dtype
    implementation: str | None = None

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
            x.astype(self.dtype).reshape(*x.shape[:2], self.heads, size)
            for x in (query, *keys_and_values)
        )
        may_attend = mask[:, None, None]
        form = self.implementation or preferred_form("cross_attention", query)
        by_cudnn = form == "gpu" and _takes_cudnn(query, key)
        if by_cudnn:
            shape = (mask.shape[0], 1, tokens.shape[1], mask.shape[1])
            may_attend = jnp.broadcast_to(may_attend, shape)
        mixed = jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=may_attend,
            implementation="cudnn" if by_cudnn else "xla",
        )
        out = self.out(mixed.reshape(tokens.shape))
        return jnp.where(jnp.any(mask, axis=-1)[:, None, None], out, 0)


def _takes_cudnn(query, key):
    # With a mask its flash attention is for 16 bits, heads of 8 n and even lengths.
    lengths, size = (query.shape[1], key.shape[1]), key.shape[-1]
    is_16_bit = key.dtype in (jnp.bfloat16, jnp.float16)
    is_even = all(length % 2 == 0 for length in lengths)
    return is_16_bit and size % 8 == 0 and size <= 128 and is_even


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
            self.implementation,
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
        count = tokens.shape[1]
        on_cpu = target_device().platform == "cpu"
        watched = self.is_mutable_collection(TELEMETRY) or self.is_initializing()
        if state is not None or not on_cpu or watched or count < LEAST_TOKENS_IN_BANDS:
            return self._add_attention(tokens, t6, state)

        def band_of(first):
            return jax.lax.dynamic_slice_in_dim(tokens, first, BAND_TOKENS, axis=1)

        def add_state(block, total, first):
            return total + block.state(band_of(first), t6), None

        def add_to_band(block, out, first):
            band = block._add_attention(band_of(first), t6, state)
            return jax.lax.dynamic_update_slice_in_dim(out, band, first, axis=1), None

        whole = count // BAND_TOKENS * BAND_TOKENS
        firsts = np.arange(0, count, BAND_TOKENS)
        rest = tokens[:, whole:]
        # Of no tokens it is zero.
        state, _ = _scan(add_state)(
            self, self.state(rest, t6), jnp.asarray(firsts[firsts < whole])
        )
        firsts = np.minimum(firsts, count - BAND_TOKENS)
        return _scan(add_to_band)(self, tokens, jnp.asarray(firsts))[0]

    def _add_attention(self, tokens, t6, state):
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
        height, width = grid
        on_cpu = target_device().platform == "cpu"
        if not on_cpu or height < LEAST_ROWS_IN_BANDS or self.is_initializing():
            return self._add_ffn(tokens, t6, grid)

        def add_to_band(block, out, first):
            # The window is shifted inwards at the border, where the convolution's
            # zeros are the image's own.
            rows = BAND_ROWS + 2
            start = jnp.clip(first - 1, 0, height - rows)
            window = _rows(tokens, start, rows, width)
            window = block._add_ffn(window, t6, (rows, width))
            band = _rows(window, first - start, BAND_ROWS, width)
            return jax.lax.dynamic_update_slice(out, band, (0, first * width, 0)), None

        # The last band may begin inside the one before, and computes the same there.
        firsts = np.minimum(np.arange(0, height, BAND_ROWS), height - BAND_ROWS)
        return _scan(add_to_band)(self, tokens, jnp.asarray(firsts))[0]

    def _add_ffn(self, tokens, t6, grid):
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


def _scan(body):
    """lax.scan over a function of (block, carry, x), with the block's parameters."""
    return nn.scan(
        body,
        variable_broadcast="params",
        split_rngs={"params": False},
        check_constancy_invariants=False,  # traces the body once, not twice
    )


def _rows(tokens, first, count, width):
    return jax.lax.dynamic_slice_in_dim(tokens, first * width, count * width, axis=1)


def _gated(gate, x):
    return (gate[:, None] * x.astype(jnp.float32)).astype(x.dtype)


def _uniform(bound: float):
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
