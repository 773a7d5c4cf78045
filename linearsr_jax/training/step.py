"""The training state and the pure training step."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from linearsr_jax.core.array_types import Array, Int, Key, PyTree
from linearsr_jax.core.rng import stream_key
from linearsr_jax.esgf.guard import GuardState, new_guard, observe
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.training.adversary import Adversary, AdversaryState
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.metrics import StepMetrics, TrainMetrics, of_sound_step
from linearsr_jax.training.sharding import LOGICAL_AXIS_RULES


@struct.dataclass
class TrainState:
    """The training state of one model; the EMA is in opt_state."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    guard: GuardState
    adversary: AdversaryState | None = None


def make_init(
    model: LinearDiT,
    optimizer: optax.GradientTransformation,
    adversary: Adversary | None = None,
) -> Callable[[Key[Array, ""]], TrainState]:
    """Returns a function from a key to a TrainState boxed with its logical axes."""

    def init(key):
        params = model.init_params(key, boxed=True)
        return make_state(params, optimizer, adversary)

    return init


def make_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    adversary: Adversary | None = None,
) -> TrainState:
    """Makes the state before the first step from parameters, boxed or not."""
    return TrainState(
        jnp.zeros([], jnp.int32),
        params,
        optimizer.init(params),
        new_guard(),
        adversary.init() if adversary else None,
    )


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    accumulation: int = 1,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Returns the pure step (state, batch, codec, expert=0) -> (state, metrics).

    Compile it under a mesh. The codec is an argument, so that its weights are not
    compiled in; expert is the number of the interval that sigma is drawn from. Random
    draws are a function of (seed, state.step, expert), so a resumed run repeats them.
    They are made for the whole batch, so accumulation changes only rounding.

    A step whose loss, gradient or parameters are not finite is skipped: only the step
    number and the guard change.

    Args:
      loss: loss to minimise.
      optimizer: optimiser from `optimizers.make_optimizer`.
      seed: seed of the run.
      accumulation: number of microbatches that the batch is split into; must divide
        the batch size.
    """

    def train_step(state, batch, codec, expert):
        key = stream_key(seed, "train_step", state.step, expert)
        draws = loss.draw(key, batch, codec, expert)
        total, values, telemetry, (grads, critic_grads) = loss_and_grads(
            loss, state, codec, (batch, draws), accumulation
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm, param_norm = optax.tree.norm(grads), optax.tree.norm(params)
        is_finite = jnp.isfinite(
            total + grad_norm + param_norm + optax.tree.norm(critic_grads)
        )
        metrics = TrainMetrics.single_from_model_output(
            is_skipped=~is_finite,
            loss=total,
            sigma=draws.sigma,
            weights=draws.weights,
            values=values,
            telemetry=telemetry,
            grad_norm=grad_norm,
            update_norm=optax.tree.norm(updates),
            param_norm=param_norm,
        )
        adversary = None
        if loss.adversary:
            adversary = loss.adversary.update(state.adversary, critic_grads)
        params, opt_state, adversary = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old),
            (params, opt_state, adversary),
            (state.params, state.opt_state, state.adversary),
        )
        guard = observe(state.guard, total, is_finite)
        state = TrainState(state.step + 1, params, opt_state, guard, adversary)
        return state, of_sound_step(metrics, is_finite)

    def train_step_with_axis_rules(state, batch, codec, expert=0):
        with nn.logical_axis_rules(LOGICAL_AXIS_RULES):
            return train_step(state, _split_rows(batch), codec, expert)

    return train_step_with_axis_rules


def loss_and_grads(loss, state, codec, samples, accumulation):
    """Loss, each sample's values, telemetry and the gradients, all float32.

    The gradients are those in the model's parameters and in the discriminator's.
    """
    critic = state.adversary
    params = state.params, critic and critic.params

    def objective(params, codec, batch, draws):
        own, judging = params
        now = critic and critic.replace(params=judging)
        return loss(own, codec, batch, draws, now)

    grad_fn = jax.value_and_grad(objective, has_aux=True)
    if accumulation == 1:
        (total, (values, telemetry)), grads = grad_fn(params, codec, *samples)
        return total, values, telemetry, grads

    def add_microbatch(sums, microbatch):
        (share, aux), grads = grad_fn(params, codec, *microbatch)
        return jax.tree.map(jnp.add, sums, (share, grads)), aux

    zeros = jnp.zeros([]), jax.tree.map(jnp.zeros_like, params)
    microbatches = jax.tree.map(lambda x: _split(x, accumulation), samples)
    (total, grads), (values, telemetry) = jax.lax.scan(
        add_microbatch, zeros, microbatches
    )
    return total, jax.tree.map(lambda x: x.T.ravel(), values), telemetry, grads


def _split(x, parts):
    """Splits (B, ...) into (parts, B / parts, ...), taking every parts-th sample.

    With neighbouring samples, a microbatch would be on a few devices only. This way
    each device splits its own samples, and nothing is sent.
    """
    if len(x) % parts:
        raise ValueError(f"batch_size {len(x)} is not a multiple of {parts}")
    x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    # Images and latents have rows; what is not named here would be gathered.
    rows = ("rows",) if x.ndim == 5 else ()
    return nn.with_logical_constraint(x, (None, "batch", *rows))


def _split_rows(batch):
    """Splits the rows of images, which come whole, over the axis `sequence`."""
    return batch | {
        name: nn.with_logical_constraint(image, ("batch", "rows", None, None))
        for name, image in batch.items()
        if name in ("image_hr", "image_lr")
    }


def unboxed(init: Callable[..., TrainState]) -> Callable[..., TrainState]:
    """Wraps init so that it returns plain arrays without boxes, as the step needs."""
    return lambda key: nn.meta.unbox(init(key))
