"""Upscaling with experts that stay on the host, at most two of them on the device.

An expert's weights are fetched while the one before it computes, and let go when that
has ended. Every image fetches the weights of each expert that has steps, once.
"""

from collections.abc import Sequence

import jax

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import Array, PyTree
from linearsr_jax.diffusion import samplers
from linearsr_jax.inference.sampling import cut_segments, decode, make_walk
from linearsr_jax.models.conditioning import Condition
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset


class OffloadedUpscale:
    """What `sampling.make_upscale` makes, as one program for each stage.

    The same functions, so the same pixels but for rounding. Programs are compiled once
    per image size and number of steps that an expert takes.
    """

    def __init__(self, model: LinearDiT, preset: Preset, boundaries: Sequence[float]):
        """Compiles nothing yet.

        Args:
          model, preset: what runs.
          boundaries: see `diffusion.experts`.
        """
        self._preset = preset
        self._boundaries = tuple(boundaries)
        self._begin = jax.jit(lambda noise: samplers.begin(noise[None]))
        self._walk = jax.jit(make_walk(model, preset))
        self._decode = jax.jit(decode)

    def __call__(
        self,
        experts: Sequence[PyTree],
        codec: Codec,
        image_lr: Array,
        noise: Array,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
        *,
        steps: int,
    ) -> tuple[Array, Array]:
        """Upscales one image; see `sampling.make_upscale`.

        Args:
          experts: numpy arrays, so that they are on the host.
          codec: on the device.
          image_lr, noise, condition, guidance_scale: on either.
          steps: network evaluations, at least 1.
        """
        segments = cut_segments(self._preset, steps=steps, boundaries=self._boundaries)
        state = self._begin(noise)
        upcoming = jax.device_put(experts[segments[0].expert])
        for index, (_, table) in enumerate(segments):
            params, upcoming = upcoming, None
            # Neither this call nor the transfer waits for its end.
            state = self._walk(
                params, state, image_lr, table, condition, guidance_scale
            )
            if index + 1 < len(segments):
                upcoming = jax.device_put(experts[segments[index + 1].expert])
            # A third expert must not come before the first is gone.
            jax.block_until_ready(state)
            del params
        return self._decode(codec, state.x, image_lr)
