"""The self-attention layer around `kernels_pallas.linear_attention`."""

import flax.linen as nn
import jax.numpy as jnp

from kernels_pallas import linear_attention
from linearsr_jax.array_types import Array, Float
from linearsr_jax.models.layers import Dense, RMSNorm


class LinearSelfAttention(nn.Module):
    """ReLU linear attention over all tokens (SANA; specs 3.5). No position enters.

    Attributes:
      width: D.
      heads: H; the head size is width / heads, 32 in SANA.
      qk_norm: RMS norm over all of q's and k's channels before the head split
        (SANA-1.5).
      eps, floor: see `kernels_pallas.linear_attention`.
      dtype: computation type; the attention's sums are float32 regardless.
    """

    width: int
    heads: int
    qk_norm: bool
    eps: float
    floor: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Mixes tokens globally."""
        qkv = Dense(
            3 * self.width, ("embed", "heads"), self.dtype, use_bias=False, name="qkv"
        )(tokens)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        if self.qk_norm:
            query = RMSNorm(name="q_norm")(query)
            key = RMSNorm(name="k_norm")(key)
        split = (*tokens.shape[:2], self.heads, self.width // self.heads)
        mixed = linear_attention(
            query.reshape(split),
            key.reshape(split),
            value.reshape(split),
            eps=self.eps,
            floor=self.floor,
        )
        return Dense(self.width, ("heads", "embed"), self.dtype, name="out")(
            mixed.reshape(tokens.shape)
        )
