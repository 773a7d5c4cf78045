"""Upscaling images that do not fit: in bands of rows, with the whole on the host.

The network's bands are exact (models.bands), the noise does not depend on the size, and
the decoder's bands have all the rows that they depend on: the pixels are those of one
pass, but for rounding. There are no tiles, no seams and no blending.
"""

from collections.abc import Sequence

import jax
import numpy as np

from linearsr_jax.codecs import Codec
from linearsr_jax.core.array_types import Float, PyTree, UInt8
from linearsr_jax.core.image_range import to_unit_range
from linearsr_jax.core.scale import SCALE
from linearsr_jax.diffusion import samplers
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.guidance import guide
from linearsr_jax.inference.sampling import cut_segments, decode
from linearsr_jax.models.bands import BandedDenoise, cut_bands
from linearsr_jax.models.conditioning import Condition
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset


class BandedUpscale:
    """What `sampling.make_upscale` makes, band by band.

    Programs are compiled once per image width and height of a band.
    """

    def __init__(
        self, model: LinearDiT, preset: Preset, boundaries: Sequence[float], rows: int
    ):
        """Compiles nothing yet.

        Args:
          model, preset: what runs.
          boundaries: see `diffusion.experts`.
          rows: of latents, in a band; at least 1.
        """
        prediction = PREDICTIONS[preset.prediction]
        self._preset = preset
        self._boundaries = tuple(boundaries)
        self._rows = rows
        self._denoise = BandedDenoise(model, rows, prediction.network_input)

        def remember(params, condition):
            return model.apply({"params": params}, condition, method="remember")

        def step(x, before, output, row, guidance_scale):
            x0_hat = prediction.x0_hat(x, output, row.sigma)
            if len(output) > 1:
                x0_hat = guide(x0_hat[1:], x0_hat[:1], guidance_scale)
            return samplers.take_step(samplers.SamplerState(x, before), x0_hat, row)

        self._remember = jax.jit(remember)
        self._step = jax.jit(step)
        self._decode = jax.jit(decode)

    def __call__(
        self,
        experts: Sequence[PyTree],
        codec: Codec,
        image_lr: UInt8[np.ndarray, "h w 3"],
        noise: Float[np.ndarray, "h w C"],
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
        *,
        steps: int,
    ) -> tuple[UInt8[np.ndarray, "4h 4w 3"], bool]:
        """Upscales one image; see `sampling.make_upscale`.

        Args:
          experts: on either, one at a time on the device.
          codec, condition: on the device.
          image_lr, noise: on the host; the noise is overwritten.
          guidance_scale: on either.
          steps: network evaluations, at least 1.
        """
        count = 1 if condition is None else len(condition.mask)
        lr = np.broadcast_to(to_unit_range(image_lr), (count, *image_lr.shape))
        x = noise[None]
        before = np.zeros_like(x)
        segments = cut_segments(self._preset, steps=steps, boundaries=self._boundaries)
        for expert, table in segments:
            params = jax.device_put(experts[expert])
            memory = condition and self._remember(params, condition)
            for row in zip(*table, strict=True):
                coefficients = samplers.SolverTable(*map(np.float32, row))
                output = self._denoise(
                    params,
                    np.broadcast_to(x, (count, *x.shape[1:])),
                    np.full(count, coefficients.sigma),
                    lr,
                    memory,
                )
                self._take_step(x, before, output, coefficients, guidance_scale)
        return self._decode_in_bands(codec, x, image_lr)

    def _take_step(self, x, before, output, coefficients, guidance_scale):
        for band in cut_bands(x.shape[1], self._rows, 0):
            parts = (array[:, band.rows] for array in (x, before, output))
            state = self._step(*parts, coefficients, guidance_scale)
            x[:, band.rows], before[:, band.rows] = state

    def _decode_in_bands(self, codec, x, image_lr):
        height, halo = x.shape[1], codec.decode_halo
        if halo is None:
            image, is_finite = self._decode(codec, x, image_lr)
            return np.asarray(image), bool(is_finite)
        # One row of latents is one of the LR image: no such codec is coarser.
        image = np.empty((height, codec.factor, SCALE * image_lr.shape[1], 3), np.uint8)
        is_finite = True
        for band in cut_bands(height, self._rows, halo):
            window, finite = self._decode(
                codec, x[:, band.window], image_lr[band.window]
            )
            window = np.asarray(window).reshape(-1, *image.shape[1:])
            image[band.rows] = window[band.skip :][: band.rows.stop - band.rows.start]
            is_finite &= bool(finite)
        return image.reshape(-1, *image.shape[2:]), is_finite
