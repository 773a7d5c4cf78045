"""Helpers for the tests of all operations: inputs, tolerances, kernels without a chip.

There are three ways to try a kernel on a machine without its device, from quick to
thorough: `run_interpreted` (the values), `lower` (layouts and tile sizes), and
`compile_for_tpu` and `compile_for_gpu` (everything but the run; need libtpu, or the
CUDA packages of jax).
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding

from kernels_pallas.absent import gpu_devices, tpu_devices

TPU = AbstractDevice("TPU v5 lite", 1, "tpu")
GPU = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")


def random_arrays(
    *shapes: Sequence[int], seed: int = 0, dtype: Any = np.float32
) -> list[np.ndarray]:
    """Draws standard normal arrays, the same for every dtype up to its rounding."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(jnp.dtype(dtype)) for shape in shapes]


def float64(*arrays: Any) -> list[np.ndarray]:
    """Returns the arrays' exact values, for an oracle in numpy."""
    return [np.asarray(array, np.float64) for array in arrays]


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Compares relative to the largest expected value: the operations' sums cancel."""
    actual, expected = float64(actual, expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    scale = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def value_and_gradients(
    function: Callable, arrays: Sequence[Any], cotangent: Any
) -> tuple[Any, tuple[Any, ...]]:
    """Returns a function's value, and its gradients with respect to every array."""
    value, vjp = jax.vjp(function, *arrays)
    return value, vjp(jnp.asarray(cotangent, value.dtype))


def on(device: AbstractDevice):
    """Makes a context in which operations are traced for `device`."""
    mesh = AbstractMesh(
        (1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device
    )
    return jax.sharding.use_abstract_mesh(mesh)


@contextlib.contextmanager
def interpreting(device: AbstractDevice):
    """Makes a context in which kernels for `device` are interpreted on CPU.

    Memory that the kernel did not write is NaN, and a data race is an error. The
    interpreter of GPU kernels needs jax 0.11.
    """
    settings: dict[str, Any] = {"detect_races": True, "uninitialized_memory": "nan"}
    if device.platform == "tpu":
        from jax.experimental.pallas import tpu as pltpu

        mode = pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(**settings))
    else:
        from jax.experimental.pallas import mosaic_gpu

        plgpu: Any = mosaic_gpu  # jax 0.10 has no interpreter there to check against.
        mode = plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(**settings))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), mode:
        yield
    # Up to jax 0.10 a race is printed only, later it raises.
    assert "RACE DETECTED" not in printed.getvalue(), printed.getvalue()


def run_interpreted(
    function: Callable, *arrays: Any, device: AbstractDevice = TPU
) -> Any:
    """Runs a function, with kernels for `device` under `interpreting`."""
    with interpreting(device), on(device):
        return jax.block_until_ready(jax.jit(function)(*arrays))


def lower(function: Callable, device: AbstractDevice, *shapes: Any) -> str:
    """Lowers kernels for a TPU or GPU on any machine.

    Checks tilings, layouts and (GPU) shared memory; not registers, not VMEM.

    Args:
      function: function of arrays.
      device: `TPU` or `GPU`.
      *shapes: jax.ShapeDtypeStruct of the arguments.

    Returns:
      The lowered module's text.
    """
    platform = {"tpu": "tpu", "gpu": "cuda"}[device.platform]
    with on(device):
        traced = jax.jit(function).trace(*shapes)
        return traced.lower(lowering_platforms=(platform,)).as_text()


def compile_for_tpu(topology: str, function: Callable, *shapes: Any) -> Any:
    """Compiles for one chip of a real TPU, without one.

    A kernel that does not fit into VMEM fails here.

    Args:
      topology: see `absent.tpu_devices`, also for its requirements.
      function: function of arrays.
      *shapes: jax.ShapeDtypeStruct of the arguments.

    Returns:
      jax.stages.Compiled.
    """
    return _compile_on(tpu_devices(topology)[0], function, *shapes)


def compile_for_gpu(function: Callable, *shapes: Any) -> Any:
    """Compiles for an H100, without one: ptxas takes the kernels, XLA plans the rest.

    For what it needs see `absent.gpu_devices`. Products are not tuned, for which a GPU
    would have to run them.

    Args:
      function: function of arrays.
      *shapes: jax.ShapeDtypeStruct of the arguments.

    Returns:
      jax.stages.Compiled.
    """
    return _compile_on(gpu_devices("h100")[0], function, *shapes)


def _compile_on(device, function, *shapes):
    mesh = jax.sharding.Mesh(np.array([device]), ("x",))
    replicated = NamedSharding(mesh, jax.P())
    with jax.set_mesh(mesh):
        return jax.jit(function, in_shardings=replicated).lower(*shapes).compile()
