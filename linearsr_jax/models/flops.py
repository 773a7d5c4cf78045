"""Floating-point operations of the network, in closed form.

Two for each product of a matrix, a convolution or attention; none for norms,
activations, exponentials and sums. With SANA's sizes, 300 tokens and no LR image these
are the published counts (2,967 GFLOP of the 1.6B model at 1024 x 1024).
"""

import itertools
from collections.abc import Mapping

from linearsr_jax.models.embeddings import TIMESTEP_FEATURES
from linearsr_jax.models.linear_dit import LinearDiT


def forward_flops(
    model: LinearDiT, grid: tuple[int, int], condition_tokens: int = 0
) -> Mapping[str, int]:
    """Counts the FLOPs of one image's forward pass by part; their sum is the whole.

    Args:
      model: the network.
      grid: (h, w) of the latents.
      condition_tokens: T; 0 is without a condition.

    Returns:
      embed (stem and patch embedding), time, condition (its projection, keys
      and values: once an image), and of all blocks together attention, cross_attention
      and ffn, then read_out.
    """
    tokens = grid[0] * grid[1]
    width, depth, channels = model.width, model.depth, (3, *model.stem_widths)
    head_size = width // model.heads
    # Pixels of the stem's three outputs, per token.
    pixels = [1]
    for stride in model.stem_strides[:0:-1]:
        pixels.insert(0, pixels[0] * stride**2)
    stem = sum(
        9 * n * a * b
        for n, (a, b) in zip(pixels, itertools.pairwise(channels), strict=True)
    )
    # Its residual blocks follow the strides: a pixel is a token there.
    stem += model.stem_blocks * 2 * 9 * channels[-1] ** 2
    # The state and its application, numerator and denominator.
    attention = 4 * width**2 + 2 * width * (head_size + 1)
    cross_attention = 2 * width**2 + 2 * condition_tokens * width
    ffn = 3 * width * model.expanded + 9 * 2 * model.expanded
    condition = width * model.condition_features + width**2 + depth * 2 * width**2
    products = {
        "embed": tokens * (stem + (model.latent_channels + channels[-1]) * width),
        "time": TIMESTEP_FEATURES * width + 7 * width**2,
        "condition": condition_tokens * condition,
        "attention": depth * tokens * attention,
        "cross_attention": depth * tokens * cross_attention * bool(condition_tokens),
        "ffn": depth * tokens * ffn,
        "read_out": tokens * width * model.latent_channels,
    }
    return {part: 2 * count for part, count in products.items()}
