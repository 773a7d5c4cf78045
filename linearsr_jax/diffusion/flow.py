"""Interpolation, velocity and what a network's raw output means.

    x_sigma  = (1 - sigma) x0 + sigma noise
    velocity = noise - x0 = d x_sigma / d sigma
    x0       = x_sigma - sigma velocity
    noise    = x_sigma + (1 - sigma) velocity

A `Prediction` says what the network sees and what it is asked for. SANA's is the
velocity itself. Pixel presets use `PreconditionedX0`. The paper predicts velocity.
"""

from typing import Protocol

import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float


def interpolate(x0, noise, sigma):
    """Returns x_sigma; sigma broadcasts against x0."""
    return (1.0 - sigma) * x0 + sigma * noise


def velocity(x0, noise):
    """Returns the flow's velocity, noise - x0."""
    return noise - x0


def x0_from_velocity(x_sigma, velocity, sigma):
    """Returns the clean end of the straight line through x_sigma."""
    return x_sigma - sigma * velocity


class Prediction(Protocol):
    """Defines the network's input, training target, and the meaning of its output."""

    def network_input(self, x_sigma: Array, sigma: Array) -> Array:
        """Returns the noisy latents as the network sees them."""
        ...

    def target(self, x0: Array, noise: Array, sigma: Array) -> Array:
        """Returns what the raw output should be; the loss is the mean square error."""
        ...

    def x0_hat(self, x_sigma: Array, output: Array, sigma: Array) -> Array:
        """Returns the clean latents that the raw output implies."""
        ...


class VelocityPrediction:
    """The network returns velocity (SANA, the paper)."""

    def network_input(self, x_sigma: Array, sigma: Array) -> Array:
        """Returns x_sigma unchanged."""
        return x_sigma

    def target(self, x0: Array, noise: Array, sigma: Array) -> Array:
        """Returns noise - x0."""
        return velocity(x0, noise)

    def x0_hat(self, x_sigma: Array, output: Array, sigma: Array) -> Array:
        """Returns x_sigma - sigma output."""
        return x0_from_velocity(x_sigma, output, sigma)


class PreconditionedX0:
    """The network corrects the best linear estimate of x0 (pixel presets).

    For latents of unit variance the best linear estimate of x0 from x_sigma is
    c_skip x_sigma with c_skip = (1 - sigma) / s^2, s^2 = (1 - sigma)^2 + sigma^2.
    The network sees that estimate and returns F in

        x0_hat = c_skip x_sigma + c_out F,      c_out = sigma / s,

    so F's target, (sigma x0 - (1 - sigma) noise) / s, has unit variance at every
    sigma. At sigma = 1 the estimate is 0 and F is x0: the one-step answer does not
    depend on the noise, and a zero-initialised head gives x0_hat = 0 exactly. The
    velocity ((2 sigma - 1) x_sigma / s - F) / s has no pole, so the usual clamp
    max(sigma, 0.05) is not needed. The idea is EDM's (arXiv 2206.00364, section 5).
    """

    def network_input(
        self, x_sigma: Float[Array, "..."], sigma: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """Returns c_skip x_sigma: 0 at pure noise, x0 at sigma = 0."""
        return _c_skip(sigma) * x_sigma

    def target(
        self,
        x0: Float[Array, "..."],
        noise: Float[Array, "..."],
        sigma: Float[Array, "..."],
    ) -> Float[Array, "..."]:
        """Returns (x0 - c_skip x_sigma) / c_out, written without dividing by sigma."""
        return (sigma * x0 - (1.0 - sigma) * noise) / _scale(sigma)

    def x0_hat(
        self,
        x_sigma: Float[Array, "..."],
        output: Float[Array, "..."],
        sigma: Float[Array, "..."],
    ) -> Float[Array, "..."]:
        """Returns c_skip x_sigma + c_out output."""
        return _c_skip(sigma) * x_sigma + sigma / _scale(sigma) * output


PREDICTIONS: dict[str, Prediction] = {
    "velocity": VelocityPrediction(),
    "preconditioned_x0": PreconditionedX0(),
}


def _scale(sigma):
    return jnp.sqrt((1.0 - sigma) ** 2 + sigma**2)


def _c_skip(sigma):
    return (1.0 - sigma) / ((1.0 - sigma) ** 2 + sigma**2)
