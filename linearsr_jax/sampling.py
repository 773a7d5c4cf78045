"""From an LR image to an HR image: the pure function that is compiled."""

from collections.abc import Callable

import jax.numpy as jnp

from linearsr_jax.array_types import Array, Bool, Float, PyTree, UInt8
from linearsr_jax.codecs import SCALE, Codec
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.samplers import SOLVERS, sample
from linearsr_jax.diffusion.schedule import sigma_grid
from linearsr_jax.image_range import to_uint8, to_unit_range
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.rng import block_noise, stream_key


def make_upscale(
    model: LinearDiT, codec: Codec, preset: Preset, *, steps: int
) -> Callable[[PyTree, UInt8[Array, "h w 3"], int], tuple[Array, Bool[Array, ""]]]:
    """Returns (params, image_lr, seed) -> (image_hr, is_finite), to be jitted.

    image_lr is uint8, its sides multiples of codec.factor / 4; image_hr is uint8 and
    four times as large; is_finite tells whether the float image behind it was.

    Args:
      model, codec, preset: what runs.
      steps: network evaluations, at least 1.

    Raises:
      ValueError: see `diffusion.schedule.sigma_grid`.
    """
    prediction = PREDICTIONS[preset.prediction]
    grid = sigma_grid(steps, shift=preset.sampling_shift, sigma_max=preset.sigma_max)
    table = SOLVERS[preset.solver](grid)

    def upscale(params, image_lr, seed):
        lr = to_unit_range(image_lr)[None]
        height, width = (SCALE * side // codec.factor for side in image_lr.shape[:2])
        key = stream_key(seed, "upscale")
        noise = block_noise(key, height, width, codec.channels)[None]

        def denoise(
            x: Float[Array, "1 h w C"], sigma: Float[Array, ""]
        ) -> Float[Array, "1 h w C"]:
            latents = prediction.network_input(x, sigma)
            output = model.apply({"params": params}, latents, sigma[None], lr)
            return prediction.x0_hat(x, output, sigma)

        image = codec.decode(sample(denoise, noise, table), lr)[0]
        return to_uint8(image), jnp.all(jnp.isfinite(image))

    return upscale
