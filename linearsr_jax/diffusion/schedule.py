"""The noise level: shift, and the grids of samplers.

Rectified flow: x_sigma = (1 - sigma) x0 + sigma noise, sigma in [0, 1], 1 = pure
noise. LinearSR writes (1 - t) z0 + t z1; its t is this sigma with z1 the noise,
the only reading under which its expert boundaries are noise levels.
"""

import numpy as np

# The network is fed timestep = TIMESTEP_SCALE * sigma (SANA).
TIMESTEP_SCALE = 1000.0


def shift_sigma(u, shift: float):
    """Moves uniform noise levels towards noise: s u / (1 + (s - 1) u).

    The only place where shift is applied. Lowers log-SNR,
    2 log((1 - sigma) / sigma), by exactly 2 log(shift).

    Args:
      u: noise levels in [0, 1], array or scalar.
      shift: s > 0; 1 is the identity.
    """
    return shift * u / (1.0 + (shift - 1.0) * u)


def unshift_sigma(sigma, shift: float):
    """Inverts `shift_sigma`."""
    return sigma / (shift - (shift - 1.0) * sigma)


def sigma_grid(steps: int, *, shift: float, unshifted_start: float) -> np.ndarray:
    """Makes a sampler's noise levels: falling, float64, of length steps + 1.

    Uniform in the unshifted level from unshifted_start to 0, then shifted (Flow-DPM-
    Solver's grid; SANA uses unshifted_start 0.999).

    Args:
      steps: network evaluations, at least 1.
      shift: see `shift_sigma`.
      unshifted_start: unshifted level of the first evaluation, in (0, 1].

    Raises:
      ValueError: if steps < 1 or unshifted_start is outside (0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0.0 < unshifted_start <= 1.0:
        raise ValueError(f"unshifted_start must be in (0, 1], got {unshifted_start}")
    u = np.linspace(unshifted_start, 0.0, steps + 1)
    return shift_sigma(u, shift)
