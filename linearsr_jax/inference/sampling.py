"""From an LR image to an HR image: the pure functions that are compiled.

A picture is made in three stages: `begin` (diffusion.samplers), one `walk` for each
expert that has steps, `decode`. Which expert that is depends on the noise level alone
and is known before compiling. `make_upscale` makes one program of them, all experts on
the device; `offloading.OffloadedUpscale` one of each, for experts that come and go.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import Array, Bool, Float, UInt8
from linearsr_jax.core.image_range import to_uint8, to_unit_range
from linearsr_jax.core.rng import block_noise, stream_key
from linearsr_jax.core.scale import SCALE
from linearsr_jax.diffusion import samplers
from linearsr_jax.diffusion.experts import expert_grid
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.guidance import guide
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset

Walk = Callable[..., samplers.SamplerState]


def draw_noise(
    preset: Preset, codec: Codec, height: int, width: int, *, steps: int, seed: int
) -> np.ndarray:
    """The noise that `make_upscale`'s function starts from.

    Args:
      preset, codec: what runs.
      height, width: of the LR image, multiples of codec.factor / 4.
      steps: network evaluations.
      seed: 0 <= seed < 2**32.

    Returns:
      float32 (h, w, C) on the latent grid. Zeros where the answer owes nothing to
      the noise: one step of a pixel preset.
    """
    grid = (SCALE * height // codec.factor, SCALE * width // codec.factor)
    is_ignored = preset.prediction == "preconditioned_x0" and preset.sigma_max == 1.0
    if steps == 1 and is_ignored:
        return np.zeros((*grid, codec.channels), np.float32)
    return block_noise(stream_key(seed, "upscale"), *grid, codec.channels)


class Segment(NamedTuple):
    """Consecutive steps of one expert.

    Attributes:
      expert: its number, clean to noisy.
      table: the steps' rows of the solver's table.
    """

    expert: int
    table: samplers.SolverTable


def cut_segments(
    preset: Preset, *, steps: int, boundaries: Sequence[float] = ()
) -> tuple[Segment, ...]:
    """The solver's table, cut where one expert takes over from another.

    Args:
      preset: whose solver and grid it is.
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
        sigma_max=preset.sigma_max,
    )
    table = samplers.SOLVERS[preset.solver](sigmas)
    segments = []
    start = 0
    for expert, group in itertools.groupby(experts):
        end = start + len(list(group))
        rows = samplers.SolverTable(*(column[start:end] for column in table))
        segments.append(Segment(expert, rows))
        start = end
    return tuple(segments)


def make_walk(model: LinearDiT, preset: Preset) -> Walk:
    """Returns the steps of one expert, as a function.

    It is (params, state, image_lr, table, condition, guidance_scale) -> state. The
    state's batch is one; image_lr is uint8 (h, w, 3). condition is None, the image's,
    or the image's and the null condition (`conditions.with_null`): then each step
    evaluates the network for both and is guided by the scale.

    Args:
      model, preset: what runs.
    """
    prediction = PREDICTIONS[preset.prediction]

    def walk(params, state, image_lr, table, condition, guidance_scale):
        variables = {"params": params}
        count = 1 if condition is None else len(condition.mask)
        lr = _repeat(to_unit_range(image_lr)[None], count)
        memory = None
        if condition is not None:
            memory = model.apply(variables, condition, method="remember")

        def denoise(
            x: Float[Array, "1 h w C"], sigma: Float[Array, ""]
        ) -> Float[Array, "1 h w C"]:
            latents = _repeat(prediction.network_input(x, sigma), count)
            level = jnp.full(count, sigma)
            output = model.apply(
                variables, latents, level, lr, memory, method="denoise"
            )
            x0_hat = prediction.x0_hat(x, output, sigma)
            if count == 1:
                return x0_hat
            return guide(x0_hat[1:], x0_hat[:1], guidance_scale)

        return samplers.walk(denoise, state, table)

    return walk


def _repeat(x, count):
    return jnp.broadcast_to(x, (count, *x.shape[1:]))


def decode(
    codec: Codec, latents: Float[Array, "1 h w C"], image_lr: UInt8[Array, "H W 3"]
) -> tuple[UInt8[Array, "4h 4w 3"], Bool[Array, ""]]:
    """The HR image at the walk's end, and whether the floats behind it are finite."""
    image = codec.decode(latents, to_unit_range(image_lr)[None])[0]
    return to_uint8(image), jnp.all(jnp.isfinite(image))


def make_upscale(
    model: LinearDiT, preset: Preset, *, steps: int, boundaries: Sequence[float] = ()
) -> Callable[..., tuple[Array, Array]]:
    """Returns how an image is made, as a function to be jitted.

    It is (experts, codec, image_lr, noise, condition=None, guidance_scale=1) ->
    (image_hr, is_finite). experts are trees of parameters, one more than boundaries;
    image_lr is uint8 (h, w, 3), its sides multiples of codec.factor / 4; noise is from
    `draw_noise`; condition and guidance_scale are those of `make_walk`; image_hr is
    uint8 and four times as large; is_finite tells whether the float image behind it
    was.

    Args:
      model, preset: what runs; the codec is an argument for the sake of its weights.
      steps, boundaries: see `cut_segments`.

    Raises:
      ValueError: see `cut_segments`.
    """
    segments = cut_segments(preset, steps=steps, boundaries=boundaries)
    walk = make_walk(model, preset)

    def upscale(experts, codec, image_lr, noise, condition=None, guidance_scale=1.0):
        state = samplers.begin(noise[None])
        for expert, table in segments:
            state = walk(
                experts[expert], state, image_lr, table, condition, guidance_scale
            )
        return decode(codec, state.x, image_lr)

    return upscale
