"""Counts the floating-point operations that a program does, before it is compiled.

Two for each product of matrix products and convolutions; none for anything else, as
`models.flops` has it. What a backward pass computes again counts again. Loops count as
often as they run.
"""

import math
from typing import Any

import jax
from jax.extend import core


def count_flops(jaxpr: core.Jaxpr) -> int:
    """Counts the operations of a jaxpr and of all that it calls.

    A `while` loop counts once, and of a `cond` the largest branch: how often they run
    is not known.
    """
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        contracted = params["dimension_numbers"][0][0]
        shape = equation.invars[0].aval.shape
        depth = math.prod(shape[axis] for axis in contracted)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        kernel = equation.invars[1].aval.shape
        window = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
        # Zeros between the elements of the input are not multiplied.
        window /= math.prod(params["lhs_dilation"])
        groups = params["batch_group_count"]
        return round(2 * window * math.prod(equation.outvars[0].aval.shape) / groups)
    inner = [count_flops(_open(x)) for x in _jaxprs(params)]
    if name == "cond":
        return max(inner, default=0)
    times = params["length"] if name == "scan" else 1
    if name == "pallas_call":  # Its body is that of one cell of the grid.
        times = math.prod(params["grid_mapping"].grid)
    if name == "shard_map":
        mesh, manual = params["mesh"], params["newly_manual_axes"]
        times = math.prod(mesh.shape[axis] for axis in manual)
    return times * sum(inner)


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    values = [
        x for v in params.values() for x in (v if isinstance(v, (tuple, list)) else [v])
    ]
    return [x for x in values if isinstance(x, (core.Jaxpr, core.ClosedJaxpr))]


def _open(jaxpr: Any) -> core.Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def flops_of(function: Any, *arguments: Any) -> int:
    """Counts the operations of a function of arrays, or of their shapes."""
    return count_flops(jax.make_jaxpr(function)(*arguments).jaxpr)
