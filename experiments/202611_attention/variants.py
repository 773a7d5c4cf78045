"""The three networks: the pixel LinearDiT, and the same with another self-attention.

The product's model is not changed. `attending` intercepts the calls of its
self-attention while the network is traced; the presets are registered on import, under
names that only this experiment's processes know.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from linearsr_jax.core.array_types import Array, Float
from linearsr_jax.models.linear_attention import TELEMETRY, LinearSelfAttention
from linearsr_jax.models.presets import PRESETS, Preset

# Above so many tokens softmax takes QUERIES at a time: the weights of all against all
# of a 128 x 128 grid are 3 GB, and parts that fit a cache are three times faster.
AT_ONCE = 1024
QUERIES = 32

# Variant -> blocks. Nothing else differs; costs.py counts.
DEPTHS = {"linear": 6, "softmax": 2, "none": 10}


def preset_name(variant: str) -> str:
    """The variant's name in PRESETS."""
    return f"attention_{variant}"


def _preset(depth: int) -> Preset:
    return dataclasses.replace(
        PRESETS["nano"],
        width=48,
        depth=depth,
        heads=3,
        cross_heads=3,
        stem_widths=(32, 32, 32),
    )


PRESETS.update({preset_name(name): _preset(depth) for name, depth in DEPTHS.items()})


def softmax_attention(
    query: Float[Array, "B N H K"],
    key: Float[Array, "B M H K"],
    value: Float[Array, "B M H K"],
) -> Float[Array, "B N H K"]:
    """softmax(q k^T / sqrt(K)) v for each head."""
    batch, count, *head = query.shape
    if count <= AT_ONCE:
        return jax.nn.dot_product_attention(query, key, value)
    padded = jnp.pad(query, ((0, 0), (0, -count % QUERIES), (0, 0), (0, 0)))
    parts = padded.reshape(batch, -1, QUERIES, *head).swapaxes(0, 1)
    mixed = jax.lax.map(
        lambda part: jax.nn.dot_product_attention(part, key, value), parts
    )
    return mixed.swapaxes(0, 1).reshape(batch, -1, *head)[:, :count]


def _attend_by_softmax(
    module: LinearSelfAttention, tokens: Array, state: None = None
) -> Array:
    """`LinearSelfAttention` with its own parameters, names and initial values."""
    split = (*tokens.shape[:2], module.heads, module.width // module.heads)
    qkv = jnp.split(module.qkv(tokens), 3, axis=-1)
    return module.out(
        softmax_attention(*(x.reshape(split) for x in qkv)).reshape(tokens.shape)
    )


def _attend_to_nothing(
    module: LinearSelfAttention, tokens: Array, state: None = None
) -> Array:
    """Adds nothing, and makes no parameters."""
    return jnp.zeros_like(tokens)


_REPLACEMENTS = {"softmax": _attend_by_softmax, "none": _attend_to_nothing}


@contextlib.contextmanager
def attending(variant: str) -> Iterator[None]:
    """Context in which self-attention is the variant's.

    It must be there whenever a network is traced: at the first call of what is jitted.

    Args:
      variant: a key of DEPTHS.
    """
    if variant == "linear":
        yield
        return
    replace = _REPLACEMENTS[variant]

    def intercept(call, arguments, keywords, context):
        module = context.module
        if (
            not isinstance(module, LinearSelfAttention)
            or context.method_name != "__call__"
        ):
            return call(*arguments, **keywords)
        if module.is_mutable_collection(TELEMETRY) and not module.is_initializing():
            # The loop logs them. Softmax has no denominator that may be 0, and
            # neither has a state.
            for name, value in (
                ("min_denominator", 1.0),
                ("dead_rows", 0.0),
                ("max_state", 0.0),
            ):
                module.sow(
                    TELEMETRY,
                    name,
                    jnp.float32(value),
                    lambda _, new: new,
                    lambda: None,
                )
        return replace(module, *arguments, **keywords)

    with nn.intercept_methods(intercept):
        yield
