"""Upscaling images that do not fit: in bands of rows, with the whole on the host.

The network's bands are exact (models.bands), the noise does not depend on the size, and
the decoder's bands have all the rows that they depend on: the pixels are those of one
pass, but for rounding. There are no tiles, no seams and no blending.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
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
from linearsr_jax.core.scale import SCALE
from linearsr_jax.diffusion import samplers
from linearsr_jax.diffusion.flow import PREDICTIONS
from linearsr_jax.diffusion.samplers import SamplerState, SolverTable
from linearsr_jax.inference.guidance import Guidance
from linearsr_jax.inference.sampling import Segment, WholeDenoiser
from linearsr_jax.models.bands import BandedNetwork, cut_bands
from linearsr_jax.models.linear_dit import LinearDiT
from linearsr_jax.models.presets import Preset

# Called while an image is upscaled in bands, with the number of parts that are done and
# of all; a part is one band in one layer of one step.
OnPart = Callable[[int, int], object]


class BandedDenoiser:
    """A `sampling.Denoiser` whose latents stay on the host.

    Programs are compiled once per image width and height of a band.
    """

    def __init__(
        self,
        model: LinearDiT,
        preset: Preset,
        rows: int,
        on_part: OnPart = lambda done, total: None,
    ):
        """Compiles nothing yet.

        Args:
          model, preset: what runs.
          rows: rows of latents in a band; at least 1.
          on_part: see `OnPart`.
        """
        self._on_part = on_part
        self._done = self._total = self._steps = 0
        prediction = PREDICTIONS[preset.prediction]
        self._rows = rows
        self._network = BandedNetwork(
            model, rows, prediction.network_input, self._finish_part
        )

        def project_condition(params, condition):
            return model.apply(
                {"params": params}, condition, method="project_condition"
            )

        def take_step(x, before, output, row, guidance):
            x0_hat = guidance.combine(prediction.x0_hat(x, output, row.sigma))
            return samplers.take_step(SamplerState(x, before), x0_hat, row)

        self._project_condition = jax.jit(project_condition)
        self._take_step = jax.jit(take_step)
        self._decode = jax.jit(WholeDenoiser(model, preset).decode)

    def _finish_part(self) -> None:
        self._done += 1
        self._on_part(self._done, self._total)

    def load_experts(
        self, experts: Sequence[PyTree], segments: Sequence[Segment]
    ) -> Iterator[tuple[PyTree, SolverTable]]:
        """See `Denoiser`; experts on the host are on the device one at a time."""
        self._steps = sum(len(table.sigma) for _, table in segments)
        for expert, table in segments:
            yield jax.device_put(experts[expert]), table

    def start(self, noise: Float[HostOrDevice, "h w C"]) -> SamplerState:
        """See `Denoiser`; the noise is overwritten by the steps."""
        self._done = 0
        x = noise[None]
        return SamplerState(x, np.zeros_like(x))

    def take_steps(
        self,
        params: PyTree,
        state: SamplerState,
        table: SolverTable,
        image_lr: Real[HostOrDevice, "H W 3"],
        guidance: Guidance,
    ) -> SamplerState:
        """See `Denoiser`; the state's arrays are overwritten."""
        count = guidance.evaluations
        # NumPy's arithmetic, so that a large image stays on the host.
        lr = to_unit_range(image_lr)  # ty: ignore[invalid-argument-type]
        lr = np.broadcast_to(lr, (count, *image_lr.shape))
        condition = guidance.conditions
        if condition is not None:
            condition = self._project_condition(params, condition)
        x, before = map(np.asarray, state)
        bands = len(cut_bands(x.shape[1], self._rows, 0))
        self._total = self._steps * bands * self._network.passes
        for values in zip(*table, strict=True):
            row = SolverTable(*(np.asarray(value, np.float32) for value in values))
            output = self._network(
                params,
                np.broadcast_to(x, (count, *x.shape[1:])),
                np.full(count, row.sigma),
                lr,
                condition,
            )
            for band in cut_bands(x.shape[1], self._rows, 0):
                parts = (array[:, band.rows] for array in (x, before, output))
                x[:, band.rows], before[:, band.rows] = self._take_step(
                    *parts, row, guidance
                )
        return state

    def decode(
        self,
        codec: Codec,
        latents: Float[HostOrDevice, "1 h w C"],
        image_lr: Real[HostOrDevice, "H W 3"],
    ) -> tuple[Float[HostOrDevice, "4*H 4*W 3"], Bool[Array, ""] | bool]:
        """See `Denoiser`; in bands where the codec's pixels depend on few rows."""
        height, halo = latents.shape[1], codec.decode_halo
        if halo is None:
            image, is_finite = self._decode(codec, latents, image_lr)
            return np.asarray(image), bool(is_finite)
        # One row of latents is one of the LR image: no such codec is coarser.
        shape = (height, codec.factor, SCALE * image_lr.shape[1], 3)
        image = np.empty(shape, np.float32)
        is_finite = True
        for band in cut_bands(height, self._rows, halo):
            window, finite = self._decode(
                codec, latents[:, band.window], image_lr[band.window]
            )
            window = np.asarray(window).reshape(-1, *image.shape[1:])
            image[band.rows] = window[band.skip :][: band.rows.stop - band.rows.start]
            is_finite &= bool(finite)
        return image.reshape(-1, *image.shape[2:]), is_finite
