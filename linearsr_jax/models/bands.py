"""Runs the network on an image of any height, exactly, in bounded device memory.

The tokens of the whole image stay on the host and pass through each block in bands of
rows, with at most two bands on the device at a time. The result is exact: of the other
tokens, a token sees the attention's state, which is a sum over tokens that the previous
block computes band by band, and one row on each side for the 3x3 convolution.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from linearsr_jax.core.array_types import Array, Float, HostOrDevice, PyTree
from linearsr_jax.models.layers import apply
from linearsr_jax.models.linear_dit import LinearDiT, ProjectedCondition, make_block

# Rows on each side that Mix-FFN's convolution sees.
BLOCK_HALO = 1


class Band(NamedTuple):
    """Rows of an image, and the window of rows that they are computed from.

    Attributes:
      rows: rows to compute.
      window: these rows with their halo, shifted inwards at the border of the image.
      skip: number of rows in the window before those of the band.
    """

    rows: slice
    window: slice
    skip: int


def cut_bands(height: int, rows: int, halo: int) -> tuple[Band, ...]:
    """Cuts an image into bands of at most two different heights.

    At the top and bottom the window is shifted inwards rather than padded: there the
    convolutions' zeros are the image's own.

    Args:
      height: height of the image, at least 1.
      rows: largest height of a band, at least 1.
      halo: number of rows on either side that a band depends on.
    """
    bands = []
    for part in np.array_split(np.arange(height), -(-height // rows)):
        first, count = int(part[0]), len(part)
        size = min(count + 2 * halo, height)
        start = min(max(first - halo, 0), height - size)
        rows_of_band = slice(first, first + count)
        bands.append(Band(rows_of_band, slice(start, start + size), first - start))
    return tuple(bands)


def stem_halo(strides: Sequence[int], blocks: int = 0) -> int:
    """Counts the rows of the stem's output, on each side, that one row depends on."""
    # Two convolutions per residual block, on the grid of the output.
    reach, stride = 2 * blocks, math.prod(strides)
    # From the output back: a 3x3 convolution sees one row of its input beside.
    for step in reversed(strides):
        reach = reach * step + 1
    return -(-reach // stride)


def fill_rows(
    target: np.ndarray,
    bands: Iterable[Band],
    compute: Callable[[Band], Array],
) -> None:
    """Computes target[:, band.rows] = compute(band) for all bands.

    Each band is fetched while the next one computes. Bands may be computed from target
    itself: no row is overwritten before all bands that see it have copied it, as long
    as a halo is no higher than a band.

    Args:
      target: array (B, height, ...) on the host.
      bands: bands from `cut_bands`.
      compute: function from a band to its rows on the device. It must copy what it
        takes from target.
    """
    pending: tuple[slice, Array] | None = None
    for band in bands:
        computed = compute(band)
        if pending is not None:
            target[:, pending[0]] = pending[1]
        pending = band.rows, computed
    if pending is not None:
        target[:, pending[0]] = pending[1]


class BandedNetwork:
    """`LinearDiT.denoise` in bands, equal to it up to rounding.

    It is compiled for each width of an image and height of a band.
    """

    def __init__(
        self,
        model: LinearDiT,
        rows: int,
        network_input: Callable[[Array, Array], Array] = lambda x, sigma: x,
        on_band: Callable[[], object] = lambda: None,
    ):
        """Compiles nothing yet.

        Args:
          model: network to run.
          rows: rows of latents in a band; at least 1.
          network_input: function (latents, sigma) -> network input, see
            `diffusion.flow.Prediction`; applied band by band.
          on_band: called after each band of each layer, `passes` times as often as
            there are bands.
        """
        self._on_band = on_band
        self._model = model
        self._rows = rows
        block = make_block(model)

        def embed(params, latents, sigma, image_lr, first_row, height):
            tokens = apply(
                model,
                params,
                network_input(latents, sigma[:, None, None, None]),
                image_lr,
                first_row,
                height,
                method="embed",
            )
            return tokens.reshape(*latents.shape[:3], -1)

        def add_state(params, layer, tokens, t6, state):
            weights = _at(params["blocks"], layer)
            return state + apply(block, weights, _flat(tokens), t6, method="state")

        def apply_block(params, layer, window, t6, keys_and_values, mask, state):
            tokens = apply(
                block,
                _at(params["blocks"], layer),
                _flat(window),
                t6,
                _at(keys_and_values, layer),
                mask,
                window.shape[1:3],
                state,
            )
            return tokens.reshape(window.shape)

        def read_out(params, tokens, e):
            output = apply(model, params, _flat(tokens), e, method="read_out")
            return output.reshape(*tokens.shape[:3], -1)

        def embed_time(params, sigma):
            return apply(model, params, sigma, method="embed_time")

        # The stem, the blocks and the head go through all bands.
        self.passes = model.depth + 2
        self._embed_time = jax.jit(embed_time)
        self._embed = jax.jit(embed, static_argnames="height")
        self._add_state = jax.jit(add_state)
        self._apply_block = jax.jit(apply_block)
        self._read_out = jax.jit(read_out)

    def __call__(
        self,
        params: PyTree,
        latents: Float[np.ndarray, "B h w C"],
        sigma: Float[HostOrDevice, "B"],
        image_lr: Float[np.ndarray, "B H W 3"],
        condition: ProjectedCondition | None = None,
    ) -> Float[np.ndarray, "B h w C"]:
        """Runs the network.

        Args:
          params: parameters, on the device.
          latents, image_lr: arguments of `LinearDiT.denoise`, on the host; the latents
            are those before `network_input`.
          sigma, condition: see `LinearDiT.denoise`.

        Returns:
          The raw output on the host, float32.
        """
        model = self._model
        batch, height, width, _ = latents.shape
        keys_and_values, mask = condition or (None, None)
        e, t6 = self._embed_time(params, sigma)
        tokens = np.empty((batch, height, width, model.width), model.dtype)
        stride = math.prod(model.stem_strides)
        size = model.width // model.heads
        no_state = np.zeros((batch, model.heads, size, size + 1), np.float32)
        # Of the block whose input is being made.
        state = no_state

        def bands(halo):
            for band in cut_bands(height, self._rows, halo):
                yield band
                self._on_band()

        def embed(band):
            nonlocal state
            lr = slice(stride * band.window.start, stride * band.window.stop)
            window = self._embed(
                params,
                latents[:, band.window],
                sigma,
                image_lr[:, lr],
                np.int32(band.window.start),
                height=height,
            )
            x = _cut(window, band)
            state = self._add_state(params, 0, x, t6, state)
            return x

        fill_rows(
            tokens, bands(stem_halo(model.stem_strides, model.stem_blocks)), embed
        )
        for layer in range(model.depth):
            whole, state = state, no_state

            def apply_block(band, layer=layer, whole=whole):
                nonlocal state
                window = self._apply_block(
                    params,
                    layer,
                    tokens[:, band.window].copy(),
                    t6,
                    keys_and_values,
                    mask,
                    whole,
                )
                x = _cut(window, band)
                if layer + 1 < model.depth:
                    state = self._add_state(params, layer + 1, x, t6, state)
                return x

            fill_rows(tokens, bands(BLOCK_HALO), apply_block)
        output = np.empty((*tokens.shape[:3], model.latent_channels), np.float32)
        fill_rows(
            output,
            bands(0),
            lambda band: self._read_out(params, tokens[:, band.rows], e),
        )
        return output


def _cut(window, band):
    return window[:, band.skip : band.skip + band.rows.stop - band.rows.start]


def _flat(tokens):
    return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])


def _at(stacked, layer):
    return jax.tree.map(lambda x: x[layer], stacked)
