"""The training state, the loss and the pure training step.

Conditional flow matching: the mean square of (output - target) over draws of sigma
and noise, where `diffusion.flow.Prediction` names the target. With preset 600m and
1600m this is the paper's loss; pixel presets predict the preconditioned x0.
"""

from collections.abc import Callable

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from linearsr_jax.array_types import Array, Float, Int, Key, PyTree, UInt8
from linearsr_jax.codecs import Codec
from linearsr_jax.diffusion.flow import PREDICTIONS, Prediction, interpolate
from linearsr_jax.diffusion.timestep_sampling import sample_sigma
from linearsr_jax.image_range import to_unit_range
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.rng import stream_key

Batch = dict[str, UInt8[Array, "B H W 3"]]


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and changes; the EMA is in opt_state."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


def make_init(
    model: LinearDiT, optimizer: optax.GradientTransformation
) -> Callable[[Key[Array, ""]], TrainState]:
    """Returns key -> TrainState, its arrays boxed with their logical axes."""

    return lambda key: make_state(model.init_params(key, boxed=True), optimizer)


def make_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step from given parameters, boxed or not."""
    return TrainState(jnp.zeros([], jnp.int32), params, optimizer.init(params))


def flow_loss(
    params: PyTree,
    batch: Batch,
    key: Key[Array, ""],
    *,
    model: LinearDiT,
    codec: Codec,
    prediction: Prediction,
    shift: float,
    mass_at_one: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The flow-matching loss of a batch.

    Args:
      params: of model.
      batch: image_hr and image_lr, uint8.
      key: for sigma and noise.
      model, codec, prediction: what is trained.
      shift, mass_at_one: see `timestep_sampling.sample_sigma`.

    Returns:
      (loss, metrics): metrics also splits the loss at sigma = 1 from the rest.
    """
    key_sigma, key_noise = jax.random.split(key)
    image_lr = to_unit_range(batch["image_lr"])
    x0 = codec.encode(to_unit_range(batch["image_hr"]), image_lr)
    sigma = sample_sigma(key_sigma, x0.shape[0], shift=shift, mass_at_one=mass_at_one)
    noise = jax.random.normal(key_noise, x0.shape)
    level = sigma[:, None, None, None]
    x_sigma = interpolate(x0, noise, level)
    output = model.apply(
        {"params": params}, prediction.network_input(x_sigma, level), sigma, image_lr
    )
    error = jnp.square(output - prediction.target(x0, noise, level))
    per_sample = jnp.mean(error, axis=(1, 2, 3))
    at_one = sigma == 1.0
    loss = jnp.mean(per_sample)
    return loss, {
        "loss": loss,
        "loss_at_one": _mean_where(per_sample, at_one),
        "loss_below_one": _mean_where(per_sample, ~at_one),
    }


def make_train_step(
    model: LinearDiT,
    codec: Codec,
    preset: Preset,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mass_at_one: float,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Returns the pure step (state, batch) -> (state, metrics); jit it with a mesh.

    Random draws are a function of (seed, state.step), so a resumed run repeats them.
    """
    prediction = PREDICTIONS[preset.prediction]

    def train_step(state, batch):
        key = stream_key(seed, "train_step", state.step)
        grad_fn = jax.value_and_grad(flow_loss, has_aux=True)
        (_, metrics), grads = grad_fn(
            state.params,
            batch,
            key,
            model=model,
            codec=codec,
            prediction=prediction,
            shift=preset.shift,
            mass_at_one=mass_at_one,
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics["update_norm"] = optax.tree.norm(updates)
        metrics["param_norm"] = optax.tree.norm(params)
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def _mean_where(values, mask):
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def unboxed(init: Callable[..., TrainState]) -> Callable[..., TrainState]:
    """init without the logical-axis boxes: plain arrays, as the step wants them."""
    return lambda key: nn.meta.unbox(init(key))
