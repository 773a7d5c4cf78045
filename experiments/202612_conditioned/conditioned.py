"""nano's network with the fidelity as an input, and the loss that trains it.

The fidelity reaches the stem as a fourth channel of the LR image, and the blocks and
the head in place of sigma, which is 1 for every answer of one step.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, PyTree
from linearsr_jax.models import presets
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.training import initial_state, setup
from linearsr_jax.training.losses import Loss

# Terms that the fidelity turns on; L1 is for all.
_FOR_THE_EYE = ("lpips", "lpips_vgg", "adversarial", "discriminator")
FIRST_KERNEL = ("stem", "kernel_0")


class ConditionedDiT(LinearDiT):
    """nano, reading four channels and a fidelity; see `apply_at`."""

    def init_params(self, key: Array, *, boxed: bool = False) -> PyTree:
        """Draws initial parameters, the fourth channel's as well."""
        with mock.patch.object(jnp, "zeros", _with_fourth_channel(jnp.zeros)):
            return super().init_params(key, boxed=boxed)


def _with_fourth_channel(zeros):
    # The LR image that parameters are drawn for is the only array of this shape.
    def make(shape, *args, **kwargs):
        shape = (1, 8, 8, 4) if shape == (1, 8, 8, 3) else shape
        return zeros(shape, *args, **kwargs)

    return make


def add_channel(params: PyTree) -> PyTree:
    """Adds weights of the fourth channel, zero at first."""
    (of_stem, kernel) = FIRST_KERNEL
    stem = dict(params[of_stem])
    stem[kernel] = np.pad(stem[kernel], [(0, 0), (0, 0), (0, 1), (0, 0)])
    return params | {of_stem: stem}


class _At:
    """The network at given fidelities, called as `Loss` calls one."""

    def __init__(self, model: LinearDiT, fidelity: Float[Array, "B"]):
        self._model, self._fidelity = model, fidelity

    def apply(self, variables, latents, _, image_lr, *args, **kwargs):
        image_lr = with_fidelity(image_lr, self._fidelity)
        return self._model.apply(
            variables, latents, self._fidelity, image_lr, *args, **kwargs
        )


def with_fidelity(
    image_lr: Float[Array, "B H W 3"], fidelity: Float[Array, "B"]
) -> Float[Array, "B H W 4"]:
    """Adds the fourth channel, in [-1, 1] as the others are."""
    level = 2 * fidelity[:, None, None, None] - 1
    channel = jnp.broadcast_to(level, (*image_lr.shape[:3], 1))
    return jnp.concatenate([image_lr, channel], axis=-1)


class ConditionedLoss(Loss):
    """nano's loss; each sample has a fidelity, which weighs what is for the eye.

    At fidelity 1 it is nano's own loss, at 0 the L1 to the photograph.
    """

    def __call__(self, params, codec, batch, draws, critic=None):
        """Computes the weighted sum of all terms at the fidelities of the draws."""
        fidelity = _fidelity(draws.noise)
        weights = {
            name: weight * fidelity if name in _FOR_THE_EYE else weight
            for name, weight in draws.weights.items()
        }
        draws = draws.replace(weights=weights, sharpening=draws.sharpening * fidelity)
        at = copy.copy(self)
        at._model = _At(self._model, fidelity)
        return Loss.__call__(at, params, codec, batch, draws, critic)


def _fidelity(noise: Float[Array, "B h w C"]) -> Float[Array, "B"]:
    """Draws fidelities, a sixth of them at either end."""
    # At sigma = 1 the network sees none of the noise, so it may serve as the draw.
    uniform = jax.scipy.stats.norm.cdf(noise[:, 0, 0, 0])
    return jnp.clip(1.5 * uniform - 0.25, 0.0, 1.0)


@contextlib.contextmanager
def conditioned() -> Iterator[None]:
    """Context in which `linearsr_jax.training` trains this network by this loss."""
    load = initial_state.load_pretrained

    def load_with_channel(name):
        model = load(name)
        return dataclasses.replace(
            model, experts=tuple(add_channel(params) for params in model.experts)
        )

    with (
        mock.patch.object(presets, "LinearDiT", ConditionedDiT),
        mock.patch.object(setup, "Loss", ConditionedLoss),
        mock.patch.object(initial_state, "load_pretrained", load_with_channel),
    ):
        yield
