"""ReLU linear attention, O(N), the plain form.

    o_n = phi(q_n) S / (phi(q_n) z + eps),   S = sum_m phi(k_m)^T v_m,
                                             z = sum_m phi(k_m),
    phi(x) = relu(x) + floor.

S and z are the whole image's summary; their size does not depend on N.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def linear_attention(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B N H K"],
    v: Float[Array, "B N H K"],
    *,
    eps: float = 1e-15,
    floor: float = 0.0,
) -> Float[Array, "B N H K"]:
    """Attends every query to every key through a K x (K + 1) state per head.

    Features, products and both sums are float32 whatever the inputs are, and the
    result is cast back to q's type. A query whose features are all zero gives
    exactly 0, and gradients stay finite there because relu has slope 0 at 0.

    Args:
      q: queries, before the ReLU. B batch, N tokens, H heads, K head size.
      k: keys, before the ReLU.
      v: values.
      eps: added to the denominator (1e-15 as diffusers; official SANA 1e-8).
      floor: added to every feature. 0 is the paper; 1e-3 bounds the gradient of
        nearly dead rows, which otherwise reaches 3e10.

    Returns:
      The attention's output, in q's dtype.
    """
    # The cast comes first: XLA on CPU cannot run the chained bfloat16 products.
    query, key, value = (x.astype(jnp.float32) for x in (q, k, v))
    query = jax.nn.relu(query) + floor
    key = jax.nn.relu(key) + floor
    # HIGHEST: on accelerators float32 products would otherwise run as bf16/tf32.
    highest = jax.lax.Precision.HIGHEST
    state = jnp.einsum("bnhk,bnhl->bhkl", key, value, precision=highest)
    normalizer = jnp.sum(key, axis=1)
    numerator = jnp.einsum("bnhk,bhkl->bnhl", query, state, precision=highest)
    denominator = jnp.einsum("bnhk,bhk->bnh", query, normalizer, precision=highest)
    return (numerator / (denominator[..., None] + eps)).astype(q.dtype)
