"""The self-attention layer around `kernels_pallas.linear_attention`.

The paper's ReLU attention; it differs where floor is above 0, which no preset has, and
by the eps in the denominator, which is diffusers'. Heads and norms are SANA's, because
the paper does not say which SANA it uses.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kernels_pallas import (
    linear_attention,
    linear_attention_output,
    linear_attention_qkv,
    linear_attention_state,
)
from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.models.layers import Dense, RMSNorm

# The collection of what a run should watch, sown if it is mutable.
TELEMETRY = "telemetry"


class LinearSelfAttention(nn.Module):
    """ReLU linear attention over all tokens, without positions (SANA, 2410.10629).

    Attributes:
      width: D.
      heads: H; the head size is width / heads, 32 in SANA.
      qk_norm: RMS norm over all of q's and k's channels before the head split
        (SANA-1.5).
      floor, implementation: see `kernels_pallas.linear_attention`.
      dtype: computation type; the attention's sums are float32 regardless.
    """

    width: int
    heads: int
    qk_norm: bool
    floor: float
    dtype: jnp.dtype
    implementation: str | None

    def setup(self):
        """Makes the layers; qkv is one product for all three."""
        self.qkv = Dense(3 * self.width, ("embed", "heads"), self.dtype, use_bias=False)
        if self.qk_norm:
            self.q_norm = RMSNorm()
            self.k_norm = RMSNorm()
        self.out = Dense(self.width, ("heads", "embed"), self.dtype)

    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        state: Float[Array, "B H K K+1"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Mixes tokens globally.

        If the collection TELEMETRY is mutable, sows the smallest denominator that is
        not 0 (gradients grow as its inverse), the fraction of rows, of all samples'
        tokens and heads, whose denominator is 0, and the largest |state|.

        Args:
          tokens: all there are, or with state a part of them.
          state: the sum of `state` over all the parts.
        """
        if state is None:
            qkv = self.qkv(tokens)
            query, key, value = jnp.split(qkv, 3, axis=-1)
            query, key, value = self._query(query), self._key(key), self._heads(value)
            if self.is_mutable_collection(TELEMETRY) and not self.is_initializing():
                self._sow_telemetry(query, key, value)
            if self.qk_norm:
                attend = functools.partial(linear_attention, query, key, value)
            else:
                attend = functools.partial(linear_attention_qkv, qkv, self.heads)
            mixed = attend(floor=self.floor, implementation=self.implementation)
        else:
            mixed = linear_attention_output(
                self._query(self.qkv(tokens, slice(0, self.width))),
                state,
                floor=self.floor,
                implementation=self.implementation,
            )
        return self.out(mixed.reshape(tokens.shape))

    def state(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B H K K+1"]:
        """Computes what a part of the tokens adds to the state that all read."""
        columns = slice(self.width, 3 * self.width)
        key, value = jnp.split(self.qkv(tokens, columns), 2, axis=-1)
        return linear_attention_state(
            self._key(key),
            self._heads(value),
            floor=self.floor,
            implementation=self.implementation,
        )

    def _query(self, x):
        return self._heads(self.q_norm(x) if self.qk_norm else x)

    def _key(self, x):
        return self._heads(self.k_norm(x) if self.qk_norm else x)

    def _heads(self, x):
        return x.reshape(*x.shape[:2], self.heads, self.width // self.heads)

    def _sow_telemetry(self, query, key, value):
        query, key, value = (
            jax.lax.stop_gradient(x.astype(jnp.float32)) for x in (query, key, value)
        )
        query = jax.nn.relu(query) + self.floor
        key = jax.nn.relu(key) + self.floor
        denominator = jnp.einsum("bnhk,bhk->bnh", query, jnp.sum(key, axis=1))
        alive = denominator > 0
        state = jnp.einsum("bnhk,bnhl->bhkl", key, value)
        for name, measured in (
            ("min_denominator", jnp.min(jnp.where(alive, denominator, jnp.inf))),
            ("dead_rows", jnp.mean(~alive)),
            ("max_state", jnp.max(jnp.abs(state))),
        ):
            self.sow(TELEMETRY, name, measured, lambda _, new: new, lambda: None)
