"""Upscales an LR image by one loop, which is the same for every `Denoiser`.

`upscale` takes the solver's steps, one expert after another, and decodes. The noise
level alone decides which expert runs, so the steps are cut into segments before
anything is compiled. A `Denoiser` decides how the network runs: on the whole image
in one program (`WholeDenoiser`, made into a function by `make_upscale`), with experts
that stay on the host (`offloaded`), or in bands of rows (`banded`).
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import (
    Array,
    Bool,
    Float,
    HostOrDevice,
    PyTree,
    Real,
)
from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.core.rng import block_noise, stream_key
from linearsr_jax.core.scale import SCALE
from linearsr_jax.diffusion import samplers
from linearsr_jax.diffusion.experts import expert_grid
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.samplers import SamplerState, SolverTable
from linearsr_jax.inference.guidance import Guidance
from linearsr_jax.models.layers import apply
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset


def draw_noise(
    preset: Preset, codec: Codec, height: int, width: int, *, steps: int, seed: int
) -> np.ndarray:
    """Draws the noise that `upscale` starts from.

    Args:
      preset, codec: preset and codec of the model.
      height, width: size of the LR image in pixels, multiples of codec.factor / SCALE.
      steps: number of network evaluations.
      seed: 0 <= seed < 2**32.

    Returns:
      float32 (h, w, C) on the latent grid; zeros where the result does not depend on
      the noise, that is for one step of a pixel preset.
    """
    grid = (SCALE * height // codec.factor, SCALE * width // codec.factor)
    if not is_random(preset, steps):
        return np.zeros((*grid, codec.channels), np.float32)
    return block_noise(stream_key(seed, "upscale"), *grid, codec.channels)


def is_random(preset: Preset, steps: int) -> bool:
    """Tells whether the result depends on the noise."""
    is_ignored = (
        preset.prediction == "preconditioned_x0" and preset.unshifted_start == 1.0
    )
    return steps > 1 or not is_ignored


class Segment(NamedTuple):
    """Consecutive steps of one expert.

    Attributes:
      expert: its number, counted from clean to noisy.
      table: the steps' rows of the solver's table.
    """

    expert: int
    table: SolverTable


def cut_segments(
    preset: Preset, *, steps: int, boundaries: Sequence[float] = ()
) -> tuple[Segment, ...]:
    """Cuts the solver's table where one expert takes over from another.

    Args:
      preset: gives the solver and its grid.
      steps: network evaluations, at least 1.
      boundaries: noise levels; see `diffusion.experts`.

    Returns:
      The noisiest first; an expert has one segment or none.

    Raises:
      ValueError: see `diffusion.experts.expert_grid`.
    """
    sigmas, experts = expert_grid(
        steps,
        tuple(boundaries),
        shift=preset.sampling_shift,
        unshifted_start=preset.unshifted_start,
    )
    table = samplers.SOLVERS[preset.solver](sigmas)
    segments = []
    start = 0
    for expert, group in itertools.groupby(experts):
        end = start + len(list(group))
        rows = SolverTable(*(column[start:end] for column in table))
        segments.append(Segment(expert, rows))
        start = end
    return tuple(segments)


class Denoiser(Protocol):
    """Runs the network, the solver and the decoder on an image."""

    def load_experts(
        self, experts: Sequence[PyTree], segments: Sequence[Segment]
    ) -> Iterator[tuple[PyTree, SolverTable]]:
        """Yields each segment's parameters, where they are needed, and its table."""
        ...

    def start(self, noise: Float[HostOrDevice, "h w C"]) -> SamplerState:
        """Makes the state before the first step."""
        ...

    def take_steps(
        self,
        params: PyTree,
        state: SamplerState,
        table: SolverTable,
        image_lr: Real[HostOrDevice, "H W 3"],
        guidance: Guidance,
    ) -> SamplerState:
        """Takes the steps of one expert; the state's batch is one."""
        ...

    def decode(
        self,
        codec: Codec,
        latents: Float[HostOrDevice, "1 h w C"],
        image_lr: Real[HostOrDevice, "H W 3"],
    ) -> tuple[Float[HostOrDevice, "4*H 4*W 3"], Bool[Array, ""] | bool]:
        """Returns the HR image, about [-1, 1], and whether all of it is finite."""
        ...


def upscale(
    denoiser: Denoiser,
    segments: Sequence[Segment],
    experts: Sequence[PyTree],
    codec: Codec,
    image_lr: Real[HostOrDevice, "H W 3"],
    noise: Float[HostOrDevice, "h w C"],
    guidance: Guidance = Guidance(),  # noqa: B008 (immutable)
) -> tuple[Float[HostOrDevice, "4*H 4*W 3"], Bool[Array, ""] | bool]:
    """Upscales one image.

    Args:
      denoiser: runs the network.
      segments: segments from `cut_segments`.
      experts: parameters of each expert, clean to noisy.
      codec: codec, with its weights on the device.
      image_lr: LR image, whose sides are multiples of codec.factor / SCALE.
      noise: noise from `draw_noise`.
      guidance: conditions; see `Guidance`.

    Returns:
      The HR image, about [-1, 1] and not clipped, and whether all of it is finite.
    """
    state = denoiser.start(noise)
    for params, table in denoiser.load_experts(experts, segments):
        state = denoiser.take_steps(params, state, table, image_lr, guidance)
        # The next but one may be fetched now: this expert must be gone by then.
        del params
    return denoiser.decode(codec, state.x, image_lr)


class WholeDenoiser:
    """A `Denoiser` of pure functions on the whole image, to be compiled."""

    def __init__(self, model: LinearDiT, preset: Preset):
        """Keeps the network and what its output means."""
        self._model = model
        self._prediction = PREDICTIONS[preset.prediction]

    def load_experts(
        self, experts: Sequence[PyTree], segments: Sequence[Segment]
    ) -> Iterator[tuple[PyTree, SolverTable]]:
        """See `Denoiser`: all experts are on the device."""
        for expert, table in segments:
            yield experts[expert], table

    def start(self, noise: Float[HostOrDevice, "h w C"]) -> SamplerState:
        """See `Denoiser`."""
        return samplers.start_from(jnp.asarray(noise)[None])

    def take_steps(
        self,
        params: PyTree,
        state: SamplerState,
        table: SolverTable,
        image_lr: Real[HostOrDevice, "H W 3"],
        guidance: Guidance,
    ) -> SamplerState:
        """See `Denoiser`: one scan over the table's rows."""
        count = guidance.evaluations
        lr = _repeat(to_unit_range(jnp.asarray(image_lr))[None], count)
        condition = guidance.conditions
        if condition is not None:
            condition = apply(
                self._model, params, condition, method="project_condition"
            )

        def denoise(
            x: Float[Array, "1 h w C"], sigma: Float[Array, ""]
        ) -> Float[Array, "1 h w C"]:
            latents = _repeat(self._prediction.network_input(x, sigma), count)
            sigmas = jnp.full(count, sigma)
            output = apply(
                self._model, params, latents, sigmas, lr, condition, method="denoise"
            )
            return guidance.combine(self._prediction.x0_hat(x, output, sigma))

        return samplers.take_steps(denoise, state, table)

    def decode(
        self,
        codec: Codec,
        latents: Float[HostOrDevice, "1 h w C"],
        image_lr: Real[HostOrDevice, "H W 3"],
    ) -> tuple[Float[HostOrDevice, "4*H 4*W 3"], Bool[Array, ""] | bool]:
        """See `Denoiser`; also of a part of the rows."""
        image = codec.decode(
            jnp.asarray(latents), to_unit_range(jnp.asarray(image_lr))[None]
        )[0]
        return image, jnp.all(jnp.isfinite(image))


def _repeat(x, count):
    return jnp.broadcast_to(x, (count, *x.shape[1:]))


def make_upscale(
    model: LinearDiT, preset: Preset, *, steps: int, boundaries: Sequence[float] = ()
) -> Callable[..., tuple[HostOrDevice, Array | bool]]:
    """Makes `upscale` of the whole image into one function, to be jitted.

    Args:
      model, preset: what runs; the codec is an argument for the sake of its weights.
      steps, boundaries: see `cut_segments`.

    Returns:
      (experts, codec, image_lr, noise, guidance=Guidance()) -> (image_hr, is_finite).

    Raises:
      ValueError: see `cut_segments`.
    """
    segments = cut_segments(preset, steps=steps, boundaries=boundaries)
    return functools.partial(upscale, WholeDenoiser(model, preset), segments)
