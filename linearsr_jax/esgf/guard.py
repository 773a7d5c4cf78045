"""Notices a run that diverges, inside the compiled step, from its losses alone.

A part of the training state: it costs nothing to fetch when a log is due, each expert
has its own, and a run that resumes decides as if it had never stopped.

Two kinds of trouble: `SKIPPED_IN_A_ROW` steps one after another whose numbers are not
finite, and a spike, a jump of the loss beyond its noise. Losses of small batches differ
tenfold from step to step, so the spike is looked for in their logarithm: its mean over
some `_RECENT` steps against the mean and deviation over some `_USUAL`. The paper has no
guard; its authors report losses of NaN.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from linearsr_jax.core.array_types import Array, Bool, Float, Int

SKIPPED_IN_A_ROW = 3
# Time constants of the two means, in steps.
_RECENT, _USUAL = 10, 200
# A spike: the recent mean is this many standard deviations of a mean of white noise
# above the usual one (losses are correlated, so six happen by chance); and at least a
# doubling, or calm losses would set it off.
_DEVIATIONS, _LEAST = 10.0, np.log(2.0)
# What is usual is not known earlier.
_WARMUP = 200
# Outliers move the usual values by no more than this many deviations.
_CLIP = 3.0

# Of `GuardState.trouble`.
TROUBLES = {
    0: "none",
    1: f"{SKIPPED_IN_A_ROW} steps in a row were not finite",
    2: "the loss has jumped beyond its noise",
}


@struct.dataclass
class GuardState:
    """What the guard remembers of a run.

    Attributes:
      count: finite steps.
      skipped: steps in a row that were not.
      recent, usual: means of the loss's logarithm.
      variance: of the loss's logarithm about the usual mean.
      trouble: a key of TROUBLES; the first stays.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    recent: Float[Array, ""]
    usual: Float[Array, ""]
    variance: Float[Array, ""]
    trouble: Int[Array, ""]


def new_guard() -> GuardState:
    """The guard before the first step."""
    none, zero = jnp.zeros([], jnp.int32), jnp.zeros([])
    return GuardState(none, none, zero, zero, zero, none)


def observe(
    guard: GuardState, loss: Float[Array, ""], is_finite: Bool[Array, ""]
) -> GuardState:
    """The guard after a step.

    Args:
      guard: before it.
      loss: of the step, at least 0.
      is_finite: of all that the step would have changed; if not, it was skipped and
        its loss counts for nothing.
    """
    value = jnp.log(jnp.maximum(loss, np.finfo(np.float32).tiny))
    deviation = jnp.sqrt(guard.variance)
    is_warm = guard.count >= _WARMUP
    clip = jnp.where(is_warm, _CLIP * deviation, jnp.inf)
    difference = jnp.clip(value - guard.usual, -clip, clip)
    # The plain means of the first values.
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
    # Of a mean that forgets by 1 / _RECENT a step.
    error = deviation * np.sqrt(1 / (2 * _RECENT - 1))
    jump = after.recent - guard.usual
    is_spike = is_warm & (jump > jnp.maximum(_DEVIATIONS * error, _LEAST))
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
