"""The network on an image of any height, exactly, in bounded device memory.

The tokens of the whole image stay on the host and pass through each block in bands of
rows, at most two bands on the device at a time. That is exact: what a token sees of
the others is the attention's state, a sum over tokens which the block before makes
band by band, and one row on each side for the 3x3 convolution.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from linearsr_jax.core.array_types import Array, Float, PyTree
from linearsr_jax.models.layers import apply
from linearsr_jax.models.linear_dit import LinearDiT, ProjectedCondition, make_block

# Rows on each side that Mix-FFN's convolution sees.
BLOCK_HALO = 1


class Band(NamedTuple):
    """Rows of an image, and the window of rows that they are computed from.

    Attributes:
      rows: what is computed.
      window: the rows and their halo; shifted inwards at the image's border.
      skip: rows of the window before the band's.
    """

    rows: slice
    window: slice
    skip: int


def cut_bands(height: int, rows: int, halo: int) -> tuple[Band, ...]:
    """Cuts an image into bands of at most two different heights.

    At the top and bottom the window is shifted inwards rather than padded: there the
    convolutions' zeros are the image's own.

    Args:
      height: of the image, at least 1.
      rows: at most, of a band; at least 1.
      halo: rows on either side that a band depends on.
    """
    bands = []
    for part in np.array_split(np.arange(height), -(-height // rows)):
        first, count = int(part[0]), len(part)
        size = min(count + 2 * halo, height)
        start = min(max(first - halo, 0), height - size)
        rows_of_band = slice(first, first + count)
        bands.append(Band(rows_of_band, slice(start, start + size), first - start))
    return tuple(bands)


def stem_halo(strides: Sequence[int]) -> int:
    """Counts the rows of the stem's output, on each side, that one row depends on."""
    reach, stride = 0, math.prod(strides)
    # From the output back: a 3x3 convolution sees one row of its input beside.
    for step in reversed(strides):
        reach = reach * step + 1
    return -(-reach // stride)


def fill_rows(
    target: np.ndarray,
    bands: Sequence[Band],
    compute: Callable[[Band], Array],
) -> None:
    """Computes target[:, band.rows] = compute(band) for all bands.

    Each is fetched while the next one computes. target may be what they are computed
    from: no row is overwritten before all bands that see it have copied it, as long as
    a halo is no higher than a band.

    Args:
      target: on the host, (B, height, ...).
      bands: from `cut_bands`.
      compute: returns a band's rows, on the device. What it hands over from the target
        must be a copy.
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
    """`LinearDiT.denoise` in bands; equal to it but for rounding.

    Compiled for each width of an image and height of a band.
    """

    def __init__(
        self,
        model: LinearDiT,
        rows: int,
        network_input: Callable[[Array, Array], Array] = lambda x, sigma: x,
    ):
        """Compiles nothing yet.

        Args:
          model: what runs.
          rows: of latents, in a band; at least 1.
          network_input: (latents, sigma) -> what the network takes, see
            `diffusion.flow.Prediction`; done here band by band.
        """
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

        self._embed_time = jax.jit(embed_time)
        self._embed = jax.jit(embed, static_argnames="height")
        self._add_state = jax.jit(add_state)
        self._apply_block = jax.jit(apply_block)
        self._read_out = jax.jit(read_out)

    def __call__(
        self,
        params: PyTree,
        latents: Float[np.ndarray, "B h w C"],
        sigma: Float[Array, "B"],
        image_lr: Float[np.ndarray, "B H W 3"],
        condition: ProjectedCondition | None = None,
    ) -> Float[np.ndarray, "B h w C"]:
        """Runs the network.

        Args:
          params: on the device.
          latents, image_lr: on the host; values as for `LinearDiT.denoise`, the
            latents before `network_input`.
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
            return cut_bands(height, self._rows, halo)

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

        fill_rows(tokens, bands(stem_halo(model.stem_strides)), embed)
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
