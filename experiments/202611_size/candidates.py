"""The networks that compete: sizes, shapes, and one without self-attention.

The presets are registered on import, under names that only this experiment's processes
know.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import flax.linen as nn
import jax.numpy as jnp

from linearsr_jax.models.linear_attention import TELEMETRY, LinearSelfAttention
from linearsr_jax.models.presets import PRESETS

_NANO = PRESETS["nano"]
WITHOUT_ATTENTION = "no attention"

CANDIDATES = {
    "nano": _NANO,
    # The same convolutions, and nothing else: a twin shows what attention gives.
    WITHOUT_ATTENTION: _NANO,
    # Most of the time goes into convolutions; two blocks summarise the image.
    "trunk": dataclasses.replace(_NANO, depth=2, stem_blocks=8),
    # No residual blocks in the stem: linear attention and Mix-FFN do all.
    "deep": dataclasses.replace(_NANO, depth=10, stem_blocks=0),
    "wide": dataclasses.replace(
        _NANO, width=96, heads=3, cross_heads=3, depth=3, stem_blocks=3
    ),
    "small": dataclasses.replace(
        _NANO, width=48, heads=3, cross_heads=3, stem_widths=(64, 64, 48)
    ),
    "large": dataclasses.replace(_NANO, depth=6, stem_blocks=10),
}

PRESETS.update({f"size_{name}": preset for name, preset in CANDIDATES.items()})


@contextlib.contextmanager
def as_candidate(name: str) -> Iterator[None]:
    """Context in which networks are traced as the candidate is.

    It must be there at the first call of what is jitted. Without attention a block's
    first sum adds zero; its parameters are drawn, so that model folders are as usual,
    and never used. The package's own model is not changed.
    """
    if name != WITHOUT_ATTENTION:
        yield
        return

    def add_nothing(call, arguments, keywords, context):
        module = context.module
        is_attention = isinstance(module, LinearSelfAttention)
        if not is_attention or context.method_name != "__call__":
            return call(*arguments, **keywords)
        if module.is_initializing():
            return call(*arguments, **keywords)
        if module.is_mutable_collection(TELEMETRY):
            for telemetry in ("min_denominator", "dead_rows", "max_state"):
                module.sow(
                    TELEMETRY,
                    telemetry,
                    jnp.float32(0),
                    lambda _, new: new,
                    lambda: None,
                )
        return jnp.zeros_like(arguments[0])

    with nn.intercept_methods(add_nothing):
        yield
