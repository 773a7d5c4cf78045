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

from linearsr_jax.array_types import Array, Float, PyTree
from linearsr_jax.models.linear_dit import ConditionMemory, LinearDiT, make_block

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
    """Rows of the stem's output whose LR rows reach one row of it, on each side."""
    reach, stride = 0, math.prod(strides)
    # From the output back: a 3x3 convolution sees one row of its input beside.
    for step in reversed(strides):
        reach = reach * step + 1
    return -(-reach // stride)


class BandedDenoise:
    """`LinearDiT.denoise` in bands; equal to it but for rounding.

    Compiled for each width of an image and height of a band.
    """

    def __init__(self, model: LinearDiT, rows: int):
        """Compiles nothing yet.

        Args:
          model: what runs.
          rows: of latents, in a band; at least 1.
        """
        self._model = model
        self._rows = rows
        block = make_block(model)

        def of_model(method: Callable, **kwargs) -> Callable:
            def call(params, *args, **settings):
                variables = {"params": params}
                return model.apply(variables, *args, **settings, method=method)

            return jax.jit(call, **kwargs)

        def add_state(params, layer, tokens, t6, state):
            variables = {"params": _at(params["blocks"], layer)}
            return state + block.apply(variables, _flat(tokens), t6, method="state")

        def apply_block(params, layer, window, t6, keys_and_values, mask, state):
            tokens = block.apply(
                {"params": _at(params["blocks"], layer)},
                _flat(window),
                t6,
                _at(keys_and_values, layer),
                mask,
                window.shape[1:3],
                state,
            )
            return tokens.reshape(window.shape)

        self._embed_time = of_model(LinearDiT.embed_time)
        self._embed = of_model(_embed, static_argnames="height")
        self._read_out = of_model(_read_out)
        self._add_state = jax.jit(add_state)
        self._apply_block = jax.jit(apply_block)

    def __call__(
        self,
        params: PyTree,
        latents: Float[np.ndarray, "B h w C"],
        sigma: Float[Array, "B"],
        image_lr: Float[np.ndarray, "B H W 3"],
        memory: ConditionMemory | None = None,
    ) -> Float[np.ndarray, "B h w C"]:
        """Runs the network.

        Args:
          params: on the device.
          latents, image_lr: on the host; values as for `LinearDiT.denoise`.
          sigma, memory: see `LinearDiT.denoise`.

        Returns:
          The raw output on the host, float32.
        """
        model = self._model
        batch, height, width, _ = latents.shape
        keys_and_values, mask = memory or (None, None)
        e, t6 = self._embed_time(params, sigma)
        size = model.width // model.heads
        no_state = np.zeros((batch, model.heads, size, size + 1), np.float32)
        stride = math.prod(model.stem_strides)

        def sweep(halo, compute, channels, dtype, layer=None):
            """All bands' rows, and the state that the block layer reads of them."""
            rows = np.empty((batch, height, width, channels), dtype)
            state, pending = no_state, None
            for band in cut_bands(height, self._rows, halo):
                x = compute(band)[:, band.skip :][:, : _count(band.rows)]
                if layer is not None:
                    state = self._add_state(params, layer, x, t6, state)
                # Fetched one band late, so that the device need not wait for the host.
                if pending is not None:
                    rows[:, pending[0]] = pending[1]
                pending = band.rows, x
            rows[:, pending[0]] = pending[1]
            return rows, state

        def embed(band):
            lr = slice(stride * band.window.start, stride * band.window.stop)
            start = np.int32(band.window.start)
            return self._embed(
                params, latents[:, band.window], image_lr[:, lr], start, height=height
            )

        tokens, state = sweep(
            stem_halo(model.stem_strides), embed, model.width, model.dtype, 0
        )
        for layer in range(model.depth):

            def apply_block(band, layer=layer, tokens=tokens, state=state):
                window = tokens[:, band.window]
                return self._apply_block(
                    params, layer, window, t6, keys_and_values, mask, state
                )

            following = layer + 1 if layer + 1 < model.depth else None
            tokens, state = sweep(
                BLOCK_HALO, apply_block, model.width, model.dtype, following
            )
        output, _ = sweep(
            0,
            lambda band: self._read_out(params, tokens[:, band.window], e),
            model.latent_channels,
            np.float32,
        )
        return output


def _embed(model, latents, image_lr, first_row, height):
    tokens = model.embed(latents, image_lr, first_row, height)
    return tokens.reshape(*latents.shape[:3], -1)


def _read_out(model, tokens, e):
    return model.read_out(_flat(tokens), e).reshape(*tokens.shape[:3], -1)


def _flat(tokens):
    return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])


def _at(stacked, layer):
    return jax.tree.map(lambda x: x[layer], stacked)


def _count(rows: slice) -> int:
    return rows.stop - rows.start
