"""From an LR image to an HR image: the pure function that is compiled."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from linearsr_jax.array_types import Array, Bool, Float, PyTree
from linearsr_jax.codecs import SCALE, Codec
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.samplers import SOLVERS, sample
from linearsr_jax.diffusion.schedule import sigma_grid
from linearsr_jax.image_range import to_uint8, to_unit_range
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset
from linearsr_jax.rng import block_noise, stream_key


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


def make_upscale(
    model: LinearDiT, preset: Preset, *, steps: int
) -> Callable[[PyTree, Codec, Array, Array], tuple[Array, Bool[Array, ""]]]:
    """Returns (params, codec, image_lr, noise) -> (image_hr, is_finite), to be jitted.

    image_lr is uint8 (h, w, 3), its sides multiples of codec.factor / 4; noise is
    from `draw_noise`; image_hr is uint8 and four times as large; is_finite tells
    whether the float image behind it was.

    Args:
      model, preset: what runs; the codec is an argument for the sake of its weights.
      steps: network evaluations, at least 1.

    Raises:
      ValueError: see `diffusion.schedule.sigma_grid`.
    """
    prediction = PREDICTIONS[preset.prediction]
    grid = sigma_grid(steps, shift=preset.sampling_shift, sigma_max=preset.sigma_max)
    table = SOLVERS[preset.solver](grid)

    def upscale(params, codec, image_lr, noise):
        lr = to_unit_range(image_lr)[None]

        def denoise(
            x: Float[Array, "1 h w C"], sigma: Float[Array, ""]
        ) -> Float[Array, "1 h w C"]:
            latents = prediction.network_input(x, sigma)
            output = model.apply({"params": params}, latents, sigma[None], lr)
            return prediction.x0_hat(x, output, sigma)

        image = codec.decode(sample(denoise, noise[None], table), lr)[0]
        return to_uint8(image), jnp.all(jnp.isfinite(image))

    return upscale
