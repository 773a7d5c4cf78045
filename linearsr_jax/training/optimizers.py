"""Builds the optimiser: clipping, AdamW or CAME, a schedule, and an EMA."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from linearsr_jax.core.array_types import Array, Int, PyTree
from linearsr_jax.models.linear_dit import is_stacked
from linearsr_jax.training.came import scale_by_came


class EmaState(NamedTuple):
    """Moving average of the parameters; part of the optimiser's state."""

    count: Int[Array, ""]
    params: PyTree


def ema_of_params(decay: float) -> optax.GradientTransformation:
    """Averages the parameters as they will be after this update.

    Put it at the end of a chain, where the updates are final. As part of the optimiser
    state, the average is sharded, saved and restored without extra code. The decay
    warms up as (1 + n) / (10 + n), so that the initial values are forgotten early.

    Args:
      decay: weight of the old average per step, in [0, 1).
    """

    def init(params):
        return EmaState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates, state, params=None):
        count = state.count + 1
        rate = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
        # In this form a parameter that does not change equals its average, to the bit.
        average = jax.tree.map(
            lambda old, p, u: old + (1.0 - rate) * (p + u - old),
            state.params,
            params,
            updates,
        )
        return updates, EmaState(count, average)

    return optax.GradientTransformation(init, update)


def _scale_by_came(**betas: float) -> optax.GradientTransformation:
    return scale_by_came(**betas, is_stacked=is_stacked)


# Transformations from gradients to steps of about unit size, by name.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": optax.scale_by_adam,
    "came": _scale_by_came,
}

# Schedules for the end of the run, by name: functions of (from, to, steps).
DESCENTS: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "constant": lambda start, end, steps: optax.constant_schedule(start),
    "cosine": lambda start, end, steps: optax.cosine_decay_schedule(
        start, max(steps, 1), alpha=end / start
    ),
    "linear": optax.linear_schedule,
}


def make_optimizer(
    *,
    name: str,
    learning_rate: float,
    descent: str,
    final_learning_rate: float,
    warmup_steps: int,
    decay_steps: int,
    steps: int,
    weight_decay: float,
    clip_norm: float,
    ema_decay: float,
    only: Sequence[str] = (),
    **betas: Mapping[str, float],
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimiser and, for the log, its learning-rate schedule.

    Weight decay acts only on parameters named `kernel`, so not on biases, norms and
    modulation tables.

    Args:
      name: key of OPTIMIZERS.
      learning_rate: learning rate after a linear warm-up.
      descent: key of DESCENTS, the schedule of the last decay_steps.
      final_learning_rate: learning rate one step after the last; ignored if descent is
        constant.
      warmup_steps: length of the warm-up in optimiser steps.
      decay_steps: length of the descent. A run may be made longer until the descent
        starts, which a cosine over the whole run would not allow.
      steps: length of the run, at least warmup_steps + decay_steps.
      weight_decay: decoupled weight decay.
      clip_norm: bound on the global norm of the gradient.
      ema_decay: see `ema_of_params`.
      only: names of parameters or modules to train; if empty, all are trained.
      **betas: betas of each optimiser by its name; only those of the chosen one are
        used. Adam has b1 and b2; for CAME see `scale_by_came`.

    Raises:
      ValueError: steps is too small, or a name is unknown.
    """
    for kind, value, known in (
        ("name", name, OPTIMIZERS),
        ("descent", descent, DESCENTS),
    ):
        if value not in known:
            raise ValueError(
                f"unknown optimizer.{kind} {value!r}; use one of {', '.join(known)}"
            )
    if steps < warmup_steps + decay_steps:
        raise ValueError(
            f"steps {steps} must be at least warmup_steps {warmup_steps} + "
            f"decay_steps {decay_steps}"
        )
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, learning_rate, warmup_steps),
            optax.constant_schedule(learning_rate),
            DESCENTS[descent](learning_rate, final_learning_rate, decay_steps),
        ],
        [warmup_steps, steps - decay_steps],
    )
    # Mask before the norm is computed, and again after the weight decay.
    only_some = []
    if only:
        others = functools.partial(_others, only=only)
        only_some = [optax.masked(optax.set_to_zero(), others)]
    optimizer = optax.chain(
        *only_some,
        optax.clip_by_global_norm(clip_norm),
        optax.chain(
            OPTIMIZERS[name](**betas[name]),
            optax.add_decayed_weights(weight_decay, _is_kernel),
            optax.scale_by_learning_rate(schedule),
        ),
        *only_some,
        ema_of_params(ema_decay),
    )
    return optimizer, schedule


def ema_params(opt_state: PyTree) -> PyTree:
    """Returns the averaged parameters from the state of the optimiser."""
    return opt_state[-1].params


def _others(params: PyTree, *, only: Sequence[str]) -> PyTree:
    found = set()

    def is_other(path, _):
        named = {getattr(entry, "key", "") for entry in path} & set(only)
        found.update(named)
        return not named

    mask = jax.tree_util.tree_map_with_path(is_other, params)
    if missing := sorted(set(only) - found):
        raise ValueError(
            f"optimizer.only: no parameter belongs to {', '.join(missing)}"
        )
    return mask


def _is_kernel(params: PyTree) -> PyTree:
    # Boxed parameters (flax's logical partitioning) add a level below the name.
    def is_kernel(path, _):
        return any(getattr(entry, "key", "") == "kernel" for entry in path)

    return jax.tree_util.tree_map_with_path(is_kernel, params)
