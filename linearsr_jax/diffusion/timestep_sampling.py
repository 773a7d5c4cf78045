"""Draws the noise levels of training.

The distribution is a shifted logit-normal (SANA) with a share of the draws exactly at
sigma = 1: one-step quality is decided there, and a logit-normal has no mass there.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, Int, Key
from linearsr_jax.diffusion.experts import check_boundaries
from linearsr_jax.diffusion.schedule import shift_sigma, unshift_sigma


def sample_sigma(
    key: Key[Array, ""],
    batch_size: int,
    *,
    shift: float,
    mass_at_one: float,
    boundaries: Sequence[float] = (),
    expert: int | Int[Array, ""] = 0,
) -> Float[Array, "B"]:
    """Draws noise levels of one expert: logit-normal(0, 1) before the shift, truncated.

    Truncation is by inverse CDF, not by rejection: with four experts the outer
    intervals hold as little as 0.3 % of the mass. Whether the paper truncates it does
    not say.

    Args:
      key: random key.
      batch_size: B.
      shift: flow shift; see `schedule.shift_sigma`.
      mass_at_one: share of the noisiest expert's draws replaced by sigma = 1, in
        [0, 1]. The paper does not say; 10-20 % is ours.
      boundaries: rising noise levels in (0, 1), after the shift, at which one expert
        takes over from another; none is one expert for all levels.
      expert: 0 is the cleanest; may be traced. Its levels are in [a, b), and the
        noisiest one's may be 1.

    Raises:
      ValueError: if mass_at_one or the boundaries are out of range.
    """
    ends = (0.0, *check_boundaries(boundaries), 1.0)
    if not 0.0 <= mass_at_one <= 1.0:
        raise ValueError(f"mass_at_one must be in [0, 1], got {mass_at_one}")
    key_level, key_one = jax.random.split(key)
    logits = np.array([_logit(unshift_sigma(end, shift)) for end in ends], np.float32)
    # Rounding can reach either end; a draw belongs to one interval only.
    edges = np.array(ends, np.float32)
    lows = np.maximum(edges[:-1], np.finfo(np.float32).tiny)
    highs = np.nextafter(edges[1:], np.float32(0.0))
    low_logit, high_logit, low, high = (
        jnp.asarray(table)[expert] for table in (logits[:-1], logits[1:], lows, highs)
    )
    z = jax.random.truncated_normal(key_level, low_logit, high_logit, (batch_size,))
    sigma = jnp.clip(shift_sigma(jax.nn.sigmoid(z), shift), min=low, max=high)
    is_one = jax.random.uniform(key_one, (batch_size,)) < mass_at_one
    is_noisiest = jnp.asarray(expert) == len(boundaries)
    return jnp.where(is_one & is_noisiest, 1.0, sigma)


def _logit(p: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(p) - np.log1p(-p))
