"""Operations of the linear diffusion transformer, usable on their own.

This package imports nothing of linearsr_jax. Each operation is a folder; today
each holds its plain reference form, which XLA compiles for every platform.
"""

from kernels_pallas.glu_depthwise_conv.reference import glu_depthwise_conv
from kernels_pallas.linear_attention.reference import linear_attention

__all__ = ["glu_depthwise_conv", "linear_attention"]
