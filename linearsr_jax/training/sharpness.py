"""Batch sharpness: how curved the loss is along its own gradient.

g' H g / |g|^2, with g and H the gradient and the Hessian of one batch's loss. Under
plain gradient descent with learning rate eta it saturates near 2 / eta (arXiv
2412.20553). The paper takes sharp minima for the cause of diverging fine-tuning without
measuring them. With Adam or CAME only its course can be compared, not 2 / eta.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax

from linearsr_jax.core.array_types import Array, Float, PyTree
from linearsr_jax.training.losses import Batch, Draws, Loss


def sharpness(
    function: Callable[[PyTree], Float[Array, ""]], params: PyTree
) -> Float[Array, ""]:
    """g' H g / |g|^2 of a function; two gradients' work, by one Hessian product."""
    gradient, curvature = jax.jvp(
        jax.grad(function), (params,), (jax.grad(function)(params),)
    )
    inner = optax.tree.vdot(gradient, curvature)
    return inner / optax.tree.norm(gradient, squared=True)


def make_batch_sharpness(
    loss: Loss,
) -> Callable[[PyTree, PyTree, Iterable[tuple[Batch, Draws]]], float]:
    """Returns (params, codec, samples) -> the mean over samples.

    Args:
      loss: of a model with implementation="reference": the kernels know no forward-mode
        differentiation.
    """

    @jax.jit
    def of_batch(params, codec, batch, draws):
        return sharpness(lambda params: loss(params, codec, batch, draws)[0], params)

    def batch_sharpness(params, codec, samples):
        values = [of_batch(params, codec, *sample) for sample in samples]
        return float(jnp.mean(jnp.stack(values)))

    return batch_sharpness
