"""Degradations by their names, and mixtures of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from linearsr_jax.data import camera, degradations
from linearsr_jax.data.degradation_params import (
    DEGRADATIONS,
    LIGHT,
    CameraParams,
    get_degradation,
)
from linearsr_jax.data.degradation_plan import draw_plan, pack


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuses what is no mixture.

    Raises:
      ValueError: an unknown name, a negative weight, or none above 0.
    """
    for name, weight in weights.items():
        get_degradation(name)
        if not 0 <= weight < float("inf"):
            raise ValueError(
                f"degradations.{name} must be at least 0 and finite, got {weight}."
            )
    if not any(weights.values()):
        raise ValueError(
            f"degradations must have a weight above 0 among {', '.join(DEGRADATIONS)}."
        )


def used(weights: Mapping[str, float]) -> tuple[str, ...]:
    """Lists the degradations with weight, in the order of DEGRADATIONS."""
    return tuple(name for name in DEGRADATIONS if weights.get(name, 0.0))


def draw_name(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """Draws a degradation, each as often as its weight says; takes one draw."""
    # In a fixed order: that of a config file must not change the stream.
    names = used(weights)
    cumulative = np.cumsum([weights[name] for name in names])
    place = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return names[min(place, len(names) - 1)]


def degrade_by_name(
    image_hr: np.ndarray, name: str, factor: int, rng: np.random.Generator
) -> np.ndarray:
    """Makes the LR image by a degradation of `degradation_params.DEGRADATIONS`.

    Args:
      image_hr: uint8 (H, W, 3); H and W are multiples of factor.
      name: name of the degradation.
      factor: how many times smaller the result is.
      rng: source of every draw.

    Returns:
      uint8 (H / factor, W / factor, 3).

    Raises:
      ValueError: unknown name, another dtype or shape.
    """
    params = get_degradation(name)
    if params is None:
        return degradations.bicubic(image_hr, factor)
    if isinstance(params, CameraParams):
        return camera.degrade(image_hr, params, factor, rng)
    return degradations.degrade(image_hr, params, factor, rng)


def draw_packed(
    name: str, size_hr: tuple[int, int], factor: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws what `device_degradations` will do; packed by `degradation_plan.pack`.

    Args:
      name: name of the degradation.
      size_hr: (height, width) in pixels, multiples of factor.
      factor: HR size over LR size.
      rng: source of every draw.

    Raises:
      ValueError: unknown name.
    """
    params = get_degradation(name)
    if isinstance(params, CameraParams):
        plan = camera.draw_camera(params, rng)
        return camera.pack_camera(plan, int(rng.integers(2**32)), size_hr, factor)
    plan = draw_plan(params or LIGHT, rng)
    if params is None:
        plan = dataclasses.replace(plan, is_bicubic=True)
    return pack(plan, size_hr, factor)
