"""The discriminator beside the model: its state, its loss, its optimiser.

Model and discriminator are trained in the same step, from the same images: the model by
softplus(-logits) of what it makes, the discriminator by softplus of the right sign of
both (the non-saturating loss of Goodfellow et al., 2014). Their gradients come from one
backward pass in which each is a constant to the other.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from linearsr_jax.core.array_types import Array, Float, PyTree
from linearsr_jax.core.rng import stream_key
from linearsr_jax.models.discriminator import (
    UNetDiscriminator,
    normalize_spectrum,
    random_directions,
    turn_directions,
)
from linearsr_jax.models.layers import apply

# Sides of the image that the parameters are made with; they do not depend on it.
_ANY_SIDE = 8


@struct.dataclass
class AdversaryState:
    """The part of a discriminator that changes from step to step.

    Attributes:
      params: the network's parameters.
      directions: see `discriminator.normalize_spectrum`.
      opt_state: the state of its optimiser.
    """

    params: PyTree
    directions: PyTree
    opt_state: PyTree


class Adversary:
    """A discriminator and how it is trained; holds no state."""

    def __init__(self, *, seed: int, width: int, learning_rate: float):
        """Makes nothing yet.

        Args:
          seed: the run's seed.
          width: see `UNetDiscriminator`.
          learning_rate: Adam's rate for it, constant.

        Raises:
          ValueError: a number that is not above 0.
        """
        for name, value in (("width", width), ("learning_rate", learning_rate)):
            if not value > 0:
                raise ValueError(f"discriminator.{name} must be above 0, got {value}")
        self._key = stream_key(seed, "discriminator")
        self._network = UNetDiscriminator(width)
        # As Real-ESRGAN's betas.
        self._optimizer = optax.adam(learning_rate, b1=0.9, b2=0.99)

    def init(self) -> AdversaryState:
        """Makes the state before the first step."""
        image = jnp.zeros((1, _ANY_SIDE, _ANY_SIDE, 3))
        params = self._network.init(self._key, image)["params"]
        directions = random_directions(jax.random.fold_in(self._key, 1), params)
        return AdversaryState(params, directions, self._optimizer.init(params))

    def losses(
        self,
        params: PyTree,
        directions: PyTree,
        image_hat: Float[Array, "B H W 3"],
        image_hr: Float[Array, "B H W 3"],
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """Computes each sample's loss of the model, and of the discriminator.

        The first has no gradient in params, the second none in image_hat.
        """
        normalized = normalize_spectrum(params, directions)
        constant = jax.lax.stop_gradient(normalized)
        logits = apply(self._network, constant, image_hat)
        of_model = jnp.mean(jax.nn.softplus(-logits), axis=(1, 2, 3))
        pair = jnp.concatenate([jax.lax.stop_gradient(image_hat), image_hr])
        logits = apply(self._network, normalized, pair)
        logits_hat, logits_hr = jnp.split(logits, 2)
        wrong = jax.nn.softplus(logits_hat) + jax.nn.softplus(-logits_hr)
        return of_model, jnp.mean(wrong, axis=(1, 2, 3)) / 2

    def update(self, state: AdversaryState, grads: PyTree) -> AdversaryState:
        """Makes the state after a step with these gradients."""
        updates, opt_state = self._optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        directions = turn_directions(params, state.directions)
        return AdversaryState(params, directions, opt_state)
