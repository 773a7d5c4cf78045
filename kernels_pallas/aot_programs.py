"""The kernels at the sizes of 1600m at 1024 x 1024, to be compiled without a device.

`aot_gpu` and `aot_tpu` say what the compilers make of them. What they print comes from
compilers that read their flags once, so that each program has a process of its own.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels_pallas import glu_depthwise_conv, linear_attention_qkv
from kernels_pallas.testing import value_and_gradients

# Heads, tokens; E, rows and columns.
HEADS, TOKENS = 70, 1024
EXPANDED, SIDE = 5600, 32


class Program(NamedTuple):
    """A function with its gradients, and what it is compiled for.

    Attributes:
      function: function of arrays.
      shapes: of the arrays.
      kernels: how many kernels it has.
    """

    function: Callable[..., Any]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    kernels: int


def attention(implementation: str, dtype: str) -> Program:
    """Makes linear attention: state, output and the gradients of both."""
    operation = functools.partial(
        linear_attention_qkv, heads=HEADS, implementation=implementation
    )

    def both_ways(qkv, cotangent):
        return value_and_gradients(operation, (qkv,), cotangent)

    shapes = (1, TOKENS, 3 * HEADS * 32), (1, TOKENS, HEADS, 32)
    return Program(both_ways, _arrays(dtype, *shapes), 4)


def glu(implementation: str, dtype: str, side: int = SIDE) -> Program:
    """Makes the gated depthwise convolution, forward and gradient."""
    operation = functools.partial(glu_depthwise_conv, implementation=implementation)

    def both_ways(x, kernel, bias, cotangent):
        return value_and_gradients(operation, (x, kernel, bias), cotangent)

    shapes = (
        (1, side, side, 2 * EXPANDED),
        (3, 3, 2 * EXPANDED),
        (2 * EXPANDED,),
        (1, side, side, EXPANDED),
    )
    return Program(both_ways, _arrays(dtype, *shapes), 2)


def _arrays(dtype, *shapes):
    return tuple(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in shapes)


def run_alone(module: str, name: str, **variables: str) -> str:
    """Runs `python -m MODULE NAME`, which compiles the program of that name.

    Args:
      module, name: what to run.
      **variables: added to the environment.

    Returns:
      What was printed, by libraries too.

    Raises:
      RuntimeError: it failed; holds what was printed.
    """
    # Libraries write to the file descriptor, which only another process can catch.
    done = subprocess.run(
        [sys.executable, "-m", module, name],
        env=os.environ | variables | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} does not compile:\n{done.stdout}")
    return done.stdout
