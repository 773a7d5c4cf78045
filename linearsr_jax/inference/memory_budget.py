"""Estimates the memory that an image takes, and chooses bands that fit.

The estimates are closed formulas that err on the large side, so nothing has to be
compiled; tests compare them with what XLA allocates.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp

from linearsr_jax.codecs import Codec
from linearsr_jax.models.bands import stem_halo
from linearsr_jax.models.blocks import (
    BAND_ROWS,
    LEAST_ROWS_IN_BANDS,
    LEAST_TOKENS_IN_BANDS,
)
from linearsr_jax.models.linear_dit import LinearDiT

# Share of the memory that an image may take by default.
CPU_SHARE, ACCELERATOR_SHARE = 0.5, 0.8
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_budget() -> int | None:
    """Returns the bytes for one image on the default device; None if unknown."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return limit and int(ACCELERATOR_SHARE * limit)
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    # A container has less than its machine.
    if (
        _CGROUP_LIMIT.is_file()
        and (text := _CGROUP_LIMIT.read_text().strip()).isdigit()
    ):
        total = min(total, int(text))
    return int(CPU_SHARE * total)


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error of NumPy or JAX says that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and "RESOURCE_EXHAUSTED" in str(error)
    )


def network_bytes(model: LinearDiT, tokens: int) -> int:
    """Estimates the bytes that one evaluation allocates, without the weights.

    A block holds about five arrays of its width and of Mix-FFN's at once, in float32 as
    far as attention is concerned.
    """
    return 20 * (model.width + model.expanded) * tokens


def image_bytes(
    model: LinearDiT, codec: Codec, grid: tuple[int, int], count: int = 1
) -> int:
    """Estimates the bytes that an image allocates in one pass, without the weights.

    Args:
      model, codec: network and codec.
      grid: (h, w) of the latents.
      count: evaluations at once; 2 with guidance.
    """
    height, width = grid
    tokens = height * width
    network = network_bytes(model, count * tokens)
    if jax.default_backend() == "cpu":
        if height >= LEAST_ROWS_IN_BANDS and tokens >= LEAST_TOKENS_IN_BANDS:
            # Blocks take a band at a time, and five arrays of their width stay.
            band = network_bytes(model, count * (BAND_ROWS + 2) * width)
            network = 20 * model.width * count * tokens + band
        # Unrolled, XLA copies the layers' weights out of the stacked ones.
        products = 8 * model.width**2 + 3 * model.width * model.expanded
        network += 4 * model.depth * products
    solver = 4 * 4 * codec.channels
    # As float32, a copy of that for the rearrangement or rounding, and as uint8.
    pixels = 3 * codec.factor**2 * (4 + 4 + 1)
    return network + tokens * (solver + pixels)


def host_bytes(model: LinearDiT, codec: Codec, tokens: int, count: int = 1) -> int:
    """Estimates the host's bytes for an image of so many tokens, in bands."""
    latents = 4 * codec.channels * (3 + count)
    # As float32, and as the levels made of them.
    pixels = 3 * codec.factor**2 * (4 + 1)
    return tokens * (
        count * model.width * jnp.dtype(model.dtype).itemsize + latents + pixels
    )


def needed_bytes(
    model: LinearDiT,
    codec: Codec,
    grid: tuple[int, int],
    rows: int | None,
    count: int = 1,
    parts: int = 1,
) -> int:
    """Estimates the bytes for an image, without the weights.

    Those of a device; on CPUs the host is all devices.

    Args:
      model, codec, grid: see `rows_that_fit`.
      rows: rows of latents in a band; None is one piece.
      count: see `image_bytes`.
      parts: number of devices that a whole image is split over.
    """
    height, width = grid
    is_host = jax.default_backend() == "cpu"
    if rows is None:
        whole = image_bytes(model, codec, grid, count)
        return whole if is_host else -(-whole // parts)
    halo = stem_halo(model.stem_strides, model.stem_blocks)
    window = min(rows + 2 * halo, height)
    # One computes while the other is fetched.
    bands = 2 * network_bytes(model, count * width * window)
    return bands + is_host * host_bytes(model, codec, height * width, count)


def rows_that_fit(
    model: LinearDiT,
    codec: Codec,
    grid: tuple[int, int],
    budget: int | None,
    count: int = 1,
    parts: int = 1,
) -> int | None:
    """Chooses the rows of latents in a band, so that an image stays within a budget.

    Args:
      model, codec: what runs.
      grid: (h, w) of the latents.
      budget: bytes of a device beside the weights; None is no bound.
      count, parts: see `needed_bytes`.

    Returns:
      None if the whole image fits; otherwise at least 1, even if that is too much.
    """
    fit = (model, codec, grid)
    height, width = grid
    if budget is None or needed_bytes(*fit, None, count, parts) <= budget:
        return None
    if jax.default_backend() == "cpu":
        budget -= host_bytes(model, codec, height * width, count)
    # One computes while the other is fetched.
    row = 2 * network_bytes(model, count * width)
    return max(
        1,
        min(
            budget // row - 2 * stem_halo(model.stem_strides, model.stem_blocks), height
        ),
    )
