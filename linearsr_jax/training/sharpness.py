"""Measures batch sharpness: the curvature of the loss along its own gradient.

It is g' H g / |g|^2, with the gradient g and the Hessian H of the loss of one batch.
Under plain gradient descent with learning rate eta it saturates near 2 / eta (arXiv
2412.20553). The paper gives sharp minima as the cause of diverging fine-tuning, but
does not measure them. With Adam or CAME only its course can be compared, not 2 / eta.
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
    """Computes g' H g / |g|^2 of a function by one Hessian-vector product."""
    gradient, curvature = jax.jvp(
        jax.grad(function), (params,), (jax.grad(function)(params),)
    )
    inner = optax.tree.vdot(gradient, curvature)
    return inner / optax.tree.norm(gradient, squared=True)


def make_batch_sharpness(
    loss: Loss,
) -> Callable[[PyTree, PyTree, Iterable[tuple[Batch, Draws]]], float]:
    """Returns a function (params, codec, samples) -> mean sharpness over samples.

    Args:
      loss: loss of a model with implementation="reference", because the kernels do not
        support forward-mode differentiation.
    """

    @jax.jit
    def of_batch(params, codec, batch, draws):
        return sharpness(lambda params: loss(params, codec, batch, draws)[0], params)

    def batch_sharpness(params, codec, samples):
        values = [of_batch(params, codec, *sample) for sample in samples]
        return float(jnp.mean(jnp.stack(values)))

    return batch_sharpness
