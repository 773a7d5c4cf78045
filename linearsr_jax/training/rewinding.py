"""Decides where a run that diverges continues, and when to give up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linearsr_jax.training.record import Rewind, TrainError


def choose_checkpoint(
    kept: Sequence[int], before: int, rewinds: Sequence[Rewind]
) -> int | None:
    """Chooses the newest checkpoint, or an older one if that has not helped.

    Args:
      kept: steps of the checkpoints, increasing.
      before: step at which the trouble began.
      rewinds: rewinds so far.

    Returns:
      The step of the checkpoint; None if there is none from before the trouble.
    """
    earlier = [step for step in kept if step < before]
    tried = {rewind.to for rewind in rewinds}
    # Saved since the last rewind, or older than its target.
    fresh = [step for step in earlier if step not in tried]
    return max(fresh or earlier, default=None)


def data_seed(seed: int, rewinds: int) -> int:
    """Derives the seed of the data, which changes with every rewind."""
    if not rewinds:
        return seed
    return int(np.random.SeedSequence([seed, rewinds]).generate_state(1)[0])


def plan_rewind(
    workdir: Path,
    kept: Sequence[int],
    rewinds: Sequence[Rewind],
    *,
    step: int,
    before: int,
    reason: str,
    max_rewinds: int,
) -> Rewind:
    """Plans the rewind of a run in trouble.

    Args:
      workdir: folder of the run, for the error message.
      kept: steps of the checkpoints, increasing.
      rewinds: rewinds so far.
      step: step that the run has reached.
      before: see `choose_checkpoint`.
      reason: reason in words.
      max_rewinds: number of rewinds that a run may have.

    Raises:
      TrainError: there have been too many rewinds, or there is no checkpoint to return
        to; the message reports all rewinds.
    """
    to = choose_checkpoint(kept, before, rewinds)
    if to is not None and len(rewinds) < max_rewinds:
        return Rewind(step=step, to=to, reason=reason)
    history = "; ".join(
        f"step {old.step} back to {old.to}: {old.reason}" for old in rewinds
    )
    if rewinds:
        why = f"given up after {len(rewinds)} rewinds ({history})"
    elif to is None:
        why = "there is no checkpoint to go back to"
    else:
        why = f"esgf.max_rewinds {max_rewinds} allows no rewind"
    raise TrainError(
        f"{workdir}: {reason} by step {step}; {why}. Lower optimizer.learning_rate or "
        f"optimizer.clip_norm; the checkpoints kept are {list(kept)}"
    )
