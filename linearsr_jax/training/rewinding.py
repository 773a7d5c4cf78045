"""Where a run that diverges goes on from, and when it is given up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linearsr_jax.training.record import TrainError


def choose_checkpoint(kept: Sequence[int], before: int, rewinds: list[dict]) -> int:
    """The newest checkpoint, or one further back if that has not helped.

    Args:
      kept: steps of the checkpoints, rising.
      before: step at which the trouble began.
      rewinds: so far.

    Raises:
      IndexError: there is none.
    """
    earlier = [step for step in kept if step < before]
    tried = {rewind["to"] for rewind in rewinds}
    # Saved since the last rewind, or older than where that went.
    fresh = [step for step in earlier if step not in tried]
    return (fresh or earlier)[-1]


def data_seed(seed: int, rewinds: int) -> int:
    """The seed of the data: another order of samples after every rewind."""
    if not rewinds:
        return seed
    return int(np.random.SeedSequence([seed, rewinds]).generate_state(1)[0])


def plan_rewind(
    workdir: Path,
    kept: Sequence[int],
    rewinds: list[dict[str, Any]],
    *,
    step: int,
    before: int,
    reason: str,
    max_rewinds: int,
) -> list[dict[str, Any]]:
    """The rewinds so far and one more, which says where to go on.

    Args:
      workdir: named in the error.
      kept: steps of the checkpoints, rising.
      rewinds: so far.
      step: the run is at.
      before: see `choose_checkpoint`.
      reason: what is wrong.
      max_rewinds: of a run.

    Raises:
      TrainError: a report, if that was not the first time, or there is nowhere to go.
    """
    try:
        to = choose_checkpoint(kept, before, rewinds)
    except IndexError:
        to = None
    if to is None or len(rewinds) >= max_rewinds:
        history = "; ".join(
            f"step {old['step']} back to {old['to']}: {old['reason']}"
            for old in rewinds
        )
        raise TrainError(
            f"{workdir}: {reason} by step {step}; "
            + (
                f"given up after {len(rewinds)} rewinds ({history})"
                if rewinds
                else "there is no checkpoint to go back to"
                if to is None
                else f"esgf.max_rewinds {max_rewinds} allows no rewind"
            )
            + ". Lower optimizer.learning_rate or optimizer.clip_norm; the checkpoints "
            f"kept are {list(kept)}"
        )
    return [*rewinds, {"step": step, "to": to, "reason": reason}]
