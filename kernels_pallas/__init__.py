"""Operations of the linear diffusion transformer, usable on their own.

This package imports nothing of linearsr_jax. Each operation is a folder: a plain form
that XLA compiles for every device, kernels for TPU and GPU, and a benchmark.

The functions have the names of their folders, which they hide as attributes. So import
a module with `from kernels_pallas.linear_attention import gpu`; `import
kernels_pallas.linear_attention.gpu as gpu` finds the function, and fails.
"""

from kernels_pallas.glu_depthwise_conv.api import glu_depthwise_conv
from kernels_pallas.linear_attention.api import (
    linear_attention,
    linear_attention_output,
    linear_attention_qkv,
    linear_attention_state,
)

__all__ = [
    "glu_depthwise_conv",
    "linear_attention",
    "linear_attention_output",
    "linear_attention_qkv",
    "linear_attention_state",
]
