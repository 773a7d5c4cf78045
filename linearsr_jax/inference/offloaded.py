"""Upscaling with experts that stay on the host, at most two of them on the device.

An expert's weights are fetched while the one before it computes, and dropped when that
has ended. Every image fetches the weights of each expert that has steps, once.
"""

from collections.abc import Iterator, Sequence

import jax

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import (
    Array,
    Bool,
    Float,
    HostOrDevice,
    PyTree,
    Real,
)
from linearsr_jax.diffusion.samplers import SamplerState, SolverTable
from linearsr_jax.inference.guidance import Guidance
from linearsr_jax.inference.sampling import Segment, WholeDenoiser
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset


class OffloadedDenoiser:
    """A `sampling.Denoiser` that compiles each stage as a program of its own.

    They are `WholeDenoiser`'s functions, so the pixels are the same but for rounding.
    Programs are compiled once per image size and number of steps that an expert takes.
    """

    def __init__(self, model: LinearDiT, preset: Preset):
        """Compiles nothing yet."""
        whole = WholeDenoiser(model, preset)
        self._start = jax.jit(whole.start)
        self._take_steps = jax.jit(whole.take_steps)
        self._decode = jax.jit(whole.decode)

    def load_experts(
        self, experts: Sequence[PyTree], segments: Sequence[Segment]
    ) -> Iterator[tuple[PyTree, SolverTable]]:
        """See `Denoiser`; experts are numpy arrays, so that they are on the host."""
        upcoming = jax.device_put(experts[segments[0].expert])
        for index, (_, table) in enumerate(segments):
            params, upcoming = upcoming, None
            if index + 1 < len(segments):
                # The transfer does not wait, and goes on while this expert computes.
                upcoming = jax.device_put(experts[segments[index + 1].expert])
            yield params, table

    def start(self, noise: Float[HostOrDevice, "h w C"]) -> SamplerState:
        """See `Denoiser`."""
        return self._start(noise)

    def take_steps(
        self,
        params: PyTree,
        state: SamplerState,
        table: SolverTable,
        image_lr: Real[HostOrDevice, "H W 3"],
        guidance: Guidance,
    ) -> SamplerState:
        """See `Denoiser`; returns when the steps are done."""
        # A third expert must not come before the first is gone.
        return jax.block_until_ready(
            self._take_steps(params, state, table, image_lr, guidance)
        )

    def decode(
        self,
        codec: Codec,
        latents: Float[HostOrDevice, "1 h w C"],
        image_lr: Real[HostOrDevice, "H W 3"],
    ) -> tuple[Float[HostOrDevice, "4*H 4*W 3"], Bool[Array, ""] | bool]:
        """See `Denoiser`."""
        return self._decode(codec, latents, image_lr)
