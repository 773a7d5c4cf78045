"""The training step of all experts as a run, and the plan of one, compile it."""

from typing import Any

import jax

from linearsr_jax.core.array_types import PyTree
from linearsr_jax.training.expert_axis import over_experts
from linearsr_jax.training.parts import RunParts
from linearsr_jax.training.step import make_train_step


def jit_step(parts: RunParts, shardings: PyTree) -> Any:
    """Makes the step (states, batch, codec) -> (states, metrics), updated in place.

    Lower it under the mesh of the parts.

    Args:
      parts: parts of the run.
      shardings: shardings of the states, from `initial_state.StartState`.
    """
    step = make_train_step(
        parts.loss,
        parts.optimizer,
        seed=parts.settings.seed,
        accumulation=parts.settings.accumulation,
    )
    return jax.jit(
        over_experts(step), donate_argnums=0, out_shardings=(shardings, None)
    )
