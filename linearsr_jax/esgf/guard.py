"""Detects a run that diverges, inside the compiled step, from its losses alone.

The guard is part of the training state: reading it costs nothing when a log is due,
each expert has its own, and a resumed run decides as if it had never stopped.

It reports two kinds of trouble: `SKIPPED_IN_A_ROW` consecutive steps that are not
finite, and a spike, which is a jump of the loss beyond its noise. Losses of small
batches vary tenfold between steps, so the spike is sought in their logarithm: its mean
over about `_RECENT` steps is compared with the mean and deviation over about `_USUAL`.
The paper has no guard; its authors report losses of NaN.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from linearsr_jax.core.array_types import Array, Bool, Float, Int

SKIPPED_IN_A_ROW = 3
# Time constants of the two means, in steps.
_RECENT, _USUAL = 10, 200
# In a spike the recent mean exceeds the usual one by this many standard deviations of a
# mean of white noise (losses are correlated, so six happen by chance), and by at least
# a factor of two, or calm losses would trigger it.
_DEVIATIONS, _LEAST = 10.0, np.log(2.0)
# Steps before the usual values are known. Until then a spike is a recent mean that
# exceeds the mean of all steps so far by this factor.
_WARMUP, _LEAST_IN_WARMUP = 200, np.log(20.0)
# Outliers count as at most this many deviations in the usual values.
_CLIP = 3.0

# Meaning of `GuardState.trouble`.
TROUBLES = {
    0: "none",
    1: f"{SKIPPED_IN_A_ROW} steps in a row were not finite",
    2: "the loss has jumped beyond its noise",
}


@struct.dataclass
class GuardState:
    """State of the guard.

    Attributes:
      count: number of finite steps so far.
      skipped: number of consecutive steps that were not finite.
      recent, usual: recent and usual mean of the log loss.
      variance: variance of the log loss about the usual mean.
      trouble: key of TROUBLES; the first trouble stays.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    recent: Float[Array, ""]
    usual: Float[Array, ""]
    variance: Float[Array, ""]
    trouble: Int[Array, ""]


def new_guard() -> GuardState:
    """Makes the guard for the first step."""
    none, zero = jnp.zeros([], jnp.int32), jnp.zeros([])
    return GuardState(none, none, zero, zero, zero, none)


def observe(
    guard: GuardState, loss: Float[Array, ""], is_finite: Bool[Array, ""]
) -> GuardState:
    """Updates the guard after a step.

    Args:
      guard: guard before the step.
      loss: loss of the step, at least 0.
      is_finite: whether everything that the step would change is finite. If not, the
        step was skipped, and its loss does not count.
    """
    value = jnp.log(jnp.maximum(loss, np.finfo(np.float32).tiny))
    deviation = jnp.sqrt(guard.variance)
    is_warm = guard.count >= _WARMUP
    clip = jnp.where(is_warm, _CLIP * deviation, jnp.inf)
    difference = jnp.clip(value - guard.usual, -clip, clip)
    # At first these are plain means.
    share = 1.0 / (guard.count + 1)
    rate, recent_rate = jnp.maximum(share, 1 / _USUAL), jnp.maximum(share, 1 / _RECENT)
    after = dataclasses.replace(
        guard,
        count=guard.count + 1,
        skipped=jnp.zeros_like(guard.skipped),
        recent=guard.recent + recent_rate * (value - guard.recent),
        usual=guard.usual + rate * difference,
        variance=(1 - rate) * (guard.variance + rate * difference**2),
    )
    # Standard error of a mean that forgets at the rate 1 / _RECENT.
    error = deviation * np.sqrt(1 / (2 * _RECENT - 1))
    jump = after.recent - guard.usual
    beyond_noise = jnp.maximum(_DEVIATIONS * error, _LEAST)
    is_spike = jump > jnp.where(is_warm, beyond_noise, _LEAST_IN_WARMUP)
    is_spike &= guard.count >= _RECENT
    skipped = guard.skipped + 1
    is_stuck = skipped >= SKIPPED_IN_A_ROW
    trouble = jnp.where(is_finite, 2 * is_spike, 1 * is_stuck)
    chosen = {
        name: jnp.where(is_finite, getattr(after, name), getattr(guard, name))
        for name in ("count", "recent", "usual", "variance")
    }
    return GuardState(
        **chosen,
        skipped=jnp.where(is_finite, 0, skipped),
        trouble=jnp.where(guard.trouble > 0, guard.trouble, trouble),
    )
