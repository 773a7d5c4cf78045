"""How training draws its noise levels.

A logit-normal, shifted (SANA), with a share of the draws exactly at sigma = 1:
one-step quality is decided there and a logit-normal has no mass there.
"""

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.array_types import Array, Float, Key
from linearsr_jax.diffusion.schedule import shift_sigma, unshift_sigma


def sample_sigma(
    key: Key[Array, ""],
    batch_size: int,
    *,
    shift: float,
    mass_at_one: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, "B"]:
    """Draws sigma in [a, b): logit-normal(0, 1) before the shift, truncated.

    Truncation is by inverse CDF, not by rejection: with four experts the outer
    intervals hold as little as 0.3 % of the mass (FLOW.md section 3).

    Args:
      key: random key.
      batch_size: B.
      shift: flow shift; see `schedule.shift_sigma`.
      mass_at_one: share of draws replaced by sigma = 1, in [0, 1]; only where the
        interval reaches 1. The paper does not say; 10-20 % is ours.
      interval: (a, b) in shifted sigma, 0 <= a < b <= 1.

    Raises:
      ValueError: if mass_at_one or the interval is out of range.
    """
    low, high = interval
    if not 0.0 <= low < high <= 1.0:
        raise ValueError(f"interval must satisfy 0 <= a < b <= 1, got {interval}")
    if not 0.0 <= mass_at_one <= 1.0:
        raise ValueError(f"mass_at_one must be in [0, 1], got {mass_at_one}")
    key_level, key_one = jax.random.split(key)
    low_logit, high_logit = (_logit(unshift_sigma(x, shift)) for x in (low, high))
    z = jax.random.truncated_normal(key_level, low_logit, high_logit, (batch_size,))
    sigma = shift_sigma(jax.nn.sigmoid(z), shift)
    # Rounding can reach either end; a draw belongs to one interval only.
    tiny = np.finfo(np.float32).tiny
    last = np.nextafter(np.float32(high), np.float32(0.0))
    sigma = jnp.clip(sigma, min=np.float32(max(low, tiny)), max=last)
    if high < 1.0 or mass_at_one == 0.0:
        return sigma
    at_one = jax.random.uniform(key_one, (batch_size,)) < mass_at_one
    return jnp.where(at_one, 1.0, sigma)


def _logit(p: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(p) - np.log1p(-p))
