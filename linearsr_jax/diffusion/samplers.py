"""Samplers as tables: every solver here is a linear recurrence.

A step from sigma to sigma' is

    x <- decay * x + current * x0_hat + previous * x0_hat_of_the_step_before

with coefficients that depend on the grid alone. They are computed once in
float64; one scan serves all solvers and compiles the network once for each expert.

Euler:            decay = sigma'/sigma, current = 1 - decay.
DPM-Solver++(2M): with alpha = 1 - sigma, lambda = log(alpha / sigma),
  h = lambda' - lambda, r = (lambda - lambda_before) / h,
  x <- (sigma'/sigma) x + alpha' (1 - e^-h) D,
  D = x0_hat + (x0_hat - x0_hat_before) / (2 r)
(arXiv 2211.01095 as diffusers' flow variant uses it), first order in the first and
last step. A grid that starts at exactly sigma = 1, where lambda is infinite, makes the
second step first order too. 1 / (2 r) is at most 1 here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linearsr_jax.core.array_types import Array, Float, HostOrDevice

Denoise = Callable[[Float[Array, "B h w C"], Float[Array, ""]], Array]


class SolverTable(NamedTuple):
    """Coefficients of a solver on a grid; float64 arrays of length steps.

    On the device they are of the latents' type, and a row holds one step's scalars.
    """

    sigma: HostOrDevice
    decay: HostOrDevice
    current: HostOrDevice
    previous: HostOrDevice


def euler(sigmas: np.ndarray) -> SolverTable:
    """Tabulates the first-order solver on a falling grid that ends at 0."""
    sigma, following = sigmas[:-1], sigmas[1:]
    decay = following / sigma
    return SolverTable(sigma, decay, 1.0 - decay, np.zeros_like(sigma))


def dpm_solver_pp(sigmas: np.ndarray) -> SolverTable:
    """Tabulates second-order Flow-DPM-Solver++ on a falling grid that ends at 0."""
    sigma, following = sigmas[:-1], sigmas[1:]
    steps = len(sigma)
    with np.errstate(divide="ignore"):
        lam = np.log1p(-sigmas) - np.log(sigmas)
    decay = following / sigma
    # alpha' (1 - e^-h) without the infinities at sigma = 1 and sigma' = 0.
    gain = (1.0 - following) - decay * (1.0 - sigma)
    half_inverse_r = np.zeros(steps)
    for i in range(1, steps - 1):
        half_inverse_r[i] = 0.5 * (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1])
    # No plain grid has a step of more than twice the one before, in lambda; between
    # experts there are some, and extrapolating that far over so short a step amplifies
    # its error.
    half_inverse_r = np.minimum(half_inverse_r, 1.0)
    return SolverTable(
        sigma, decay, gain * (1.0 + half_inverse_r), -gain * half_inverse_r
    )


SOLVERS: dict[str, Callable[[np.ndarray], SolverTable]] = {
    "euler": euler,
    "dpm_solver_pp": dpm_solver_pp,
}


class SamplerState(NamedTuple):
    """The state of a solver between noise and clean latents.

    Attributes:
      x: the latents; (B, h, w, C). float32 is advised.
      before: x0_hat of the step before; zeros before the first.
    """

    x: Float[HostOrDevice, "B h w C"]
    before: Float[HostOrDevice, "B h w C"]


def start_from(noise: Float[Array, "B h w C"]) -> SamplerState:
    """Makes the first state of unit normal noise, not scaled by the first sigma."""
    return SamplerState(noise, jnp.zeros_like(noise))


def take_steps(
    denoise: Denoise, state: SamplerState, table: SolverTable
) -> SamplerState:
    """Takes the steps of a table, or of a part of one.

    A table may be cut anywhere, so that another network can continue: the state has
    everything that a solver remembers.

    Args:
      denoise: (x_sigma, sigma) -> x0_hat; called len(table.sigma) times.
      state: state from `start_from` or from the steps before.
      table: rows of a table from one of `SOLVERS`.

    Returns:
      The state after these steps; x is clean after the last row of a whole table.
    """

    def step(state, row):
        return take_step(state, denoise(state.x, row.sigma), row), None

    rows = SolverTable(*(jnp.asarray(column, state.x.dtype) for column in table))
    return jax.lax.scan(step, state, rows)[0]


def take_step(
    state: SamplerState, x0_hat: Float[Array, "B h w C"], row: SolverTable
) -> SamplerState:
    """Takes one step.

    Args:
      state: before it.
      x0_hat: the network's answer to it.
      row: one of the table.
    """
    x = state.x * row.decay + x0_hat * row.current + state.before * row.previous
    return SamplerState(x, x0_hat)
