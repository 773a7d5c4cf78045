"""Assigns noise levels to experts: boundaries and the sampler's grid.

A model of n experts has n - 1 boundaries, increasing noise levels in (0, 1); one expert
has none. Experts are counted from clean to noisy; expert i owns [boundary i - 1,
boundary i), so that a boundary belongs to the noisier one, as in Wan 2.2.

`log_snr` derives boundaries from a schedule by the paper's rule.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linearsr_jax.diffusion.schedule import shift_sigma, sigma_grid, unshift_sigma

# The paper's four experts: detail, texture, refinement, structure.
EXPERT_BOUNDARIES = (0.223, 0.875, 0.939)


def uniform_boundaries(n_experts: int) -> tuple[float, ...]:
    """Cuts [0, 1] into equal intervals, with which the paper's ablation compares.

    Raises:
      ValueError: if n_experts < 1.
    """
    if n_experts < 1:
        raise ValueError(f"n_experts must be at least 1, got {n_experts}")
    return tuple(np.linspace(0.0, 1.0, n_experts + 1)[1:-1].tolist())


def check_boundaries(boundaries: Sequence[float]) -> tuple[float, ...]:
    """Returns boundaries that experts can be chosen by, as a tuple of floats.

    Raises:
      ValueError: they do not rise in (0, 1), in float32.
    """
    # Training draws noise levels in float32 and the network is fed them so.
    ends = np.array([0.0, *boundaries, 1.0], np.float32)
    if not np.all(np.diff(ends) > 0):
        raise ValueError(
            f"expert boundaries must rise and lie between 0 and 1, got {boundaries}"
        )
    return tuple(float(b) for b in boundaries)


def intervals(boundaries: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """Returns each expert's levels [a, b), clean to noisy; the last one's include 1."""
    return tuple(itertools.pairwise((0.0, *check_boundaries(boundaries), 1.0)))


def find_expert(sigma, boundaries: tuple[float, ...]):
    """Finds the expert that owns a noise level; a boundary is the noisier one's.

    Compared in float32, so that a level drawn by training finds the expert it was drawn
    for.

    Args:
      sigma: noise levels in [0, 1], array or scalar.
      boundaries: see `check_boundaries`.
    """
    ends = np.array(boundaries, np.float32)
    return np.searchsorted(ends, np.asarray(sigma, np.float32), side="right")


class ExpertGrid(NamedTuple):
    """The noise levels that a sampler visits, and whose they are.

    Attributes:
      sigmas: falling noise levels, the last one 0; float64 of length steps + 1.
      experts: who runs each step; length steps.
    """

    sigmas: np.ndarray
    experts: tuple[int, ...]


def expert_grid(
    steps: int, boundaries: tuple[float, ...], *, shift: float, unshifted_start: float
) -> ExpertGrid:
    """Makes `sigma_grid` with the boundaries as knots, so that every expert runs.

    Every expert has one step, and each further step goes to the interval whose steps
    are longest in the unshifted level; within an interval they are even. Knots lie one
    float32 below the boundary: a step that starts there is of the cleaner expert, and
    the level is one that expert was trained on.

    With fewer steps than experts the grid is the plain one, each step being of the
    expert that owns the level it starts from: one step is the noisiest expert's.
    Boundaries that are not below the grid's first level do not count, and the experts
    above them have no step.

    Args:
      steps: network evaluations, at least 1.
      boundaries: see `check_boundaries`; of shifted levels. () gives `sigma_grid`.
      shift, unshifted_start: see `schedule.sigma_grid`.

    Raises:
      ValueError: see `check_boundaries` and `schedule.sigma_grid`.
    """
    sigmas = sigma_grid(steps, shift=shift, unshifted_start=unshifted_start)
    first = np.float32(sigmas[0])
    reached = tuple(b for b in check_boundaries(boundaries) if np.float32(b) < first)
    if steps > len(reached):
        below = np.nextafter(np.array(reached, np.float32), np.float32(0.0)).astype(
            np.float64
        )
        ends = np.array([0.0, *unshift_sigma(below, shift), unshifted_start])
        counts = np.ones(len(ends) - 1, int)
        while counts.sum() < steps:
            counts[np.argmax(np.diff(ends) / counts)] += 1
        parts = [
            np.linspace(high, low, count, endpoint=False)
            for (low, high), count in zip(itertools.pairwise(ends), counts, strict=True)
        ]
        sigmas = shift_sigma(np.concatenate([*parts[::-1], [0.0]]), shift)
    return ExpertGrid(sigmas, tuple(find_expert(sigmas[:-1], reached).tolist()))
