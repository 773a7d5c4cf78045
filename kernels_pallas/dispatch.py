"""Chooses the form of an operation that runs.

Every operation has a plain form, "reference", which XLA compiles for any device and
which JAX can differentiate in every way. Forms named after a platform, "cpu", "tpu" and
"gpu", run there only. They have hand-written gradients (jax.custom_vjp), which JAX can
use in reverse mode only. Forms of other names run anywhere.

implementation="reference" therefore also enables forward mode: jvp, grad of jvp,
Hessian-vector products. It is an argument and not a global setting, because jax.jit
would keep using what it compiled under the old value.
"""

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractDevice

T = TypeVar("T")
logger = logging.getLogger("kernels_pallas")


@dataclasses.dataclass(frozen=True)
class Fastest:
    """The form that a run of the operation's bench.py found fastest.

    Attributes:
      form: the form.
      devices: regular expression that the whole device kind must match: one kind, or a
        family of equal capability, such as "NVIDIA G?H[12]00.*" for Hopper.
      dtypes: types of the first array that were measured.
      least_size: smallest size for which it won, in elements of the array that `run`
        is told to measure.
    """

    form: str
    devices: str
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    least_size: int = 0


# What implementation=None runs: the first row that fits the device and the input, and
# otherwise the reference. No GPU or TPU has been measured yet.
PREFERRED: dict[str, tuple[Fastest, ...]] = {
    "linear_attention": (Fastest("reference", "cpu"),),
    "glu_depthwise_conv": (Fastest("cpu", "cpu"),),
    # Of jax.nn.dot_product_attention; "gpu" is cuDNN's. There is no other form on TPUs.
    "cross_attention": (Fastest("reference", "cpu"), Fastest("reference", "TPU.*")),
}

# Device kinds that the form "gpu" is for: wgmma is an instruction of compute capability
# 9.0 alone, and nothing was compiled for another.
HOPPER = r"NVIDIA G?H\d+.*"

# Form -> the platform's name where a computation is lowered.
LOWERING_PLATFORM = {"cpu": "cpu", "tpu": "tpu", "gpu": "cuda"}


def run(
    operation: str,
    implementation: str | None,
    forms: Mapping[str, Callable[..., T]],
    *arrays: jax.Array,
    size: int | None = None,
) -> T:
    """Runs one form of an operation.

    Args:
      operation: its name in `PREFERRED` and in messages.
      implementation: a key of forms, or None for what `PREFERRED` says of the target
        device and the first array. If that form does not take the input, the
        reference runs and the reason is logged once.
      forms: {"reference": function of the arrays, "tpu": ...}. A form raises
        `unsupported(...)` for an input it does not take.
      *arrays: arguments of the form.
      size: elements to compare with `Fastest.least_size`, where the first array's
        number of them would not mean the same as in other calls.

    Returns:
      What the form returns.

    Raises:
      NotImplementedError: the implementation asked for does not take this input, or
        is for another device; names dtypes, shapes and device.
      ValueError: no such implementation.
    """
    if implementation is not None:
        if implementation not in forms:
            raise ValueError(
                f"{operation}: no implementation {implementation!r}; there are "
                f"{', '.join(map(repr, forms))} and None"
            )
        is_elsewhere = implementation != target_device().platform
        if implementation in LOWERING_PLATFORM and is_elsewhere:
            reason = (
                f"this form is for {implementation.upper()}s; to compile for one from "
                "elsewhere name it with jax.sharding.use_abstract_mesh"
            )
            raise unsupported(operation, implementation, reason, *arrays)
        kind = target_device().device_kind
        if implementation == "gpu" and not re.fullmatch(HOPPER, kind):
            reason = "this form is for Hopper GPUs, compute capability 9.0"
            raise unsupported(operation, implementation, reason, *arrays)
        return forms[implementation](*arrays)
    preferred = preferred_form(operation, arrays[0], size)
    if preferred in LOWERING_PLATFORM:
        try:
            # The computation may yet be lowered for another platform than the target.
            return jax.lax.platform_dependent(
                *arrays,
                **{LOWERING_PLATFORM[preferred]: forms[preferred]},
                default=forms["reference"],
            )
        except NotImplementedError as error:
            _log_once(f"{error}; running the reference")
            preferred = "reference"
    return forms[preferred](*arrays)


def target_device() -> AbstractDevice:
    """Returns the kind of device that the present trace is for.

    That of the mesh in context (jax.set_mesh, jax.sharding.use_abstract_mesh), else
    the default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device
    # jax adds its options to the class at run time, where no checker sees them.
    device = jax.config.jax_default_device  # ty: ignore[missing-attribute]
    if not isinstance(device, jax.Device):  # None or a platform's name.
        device = jax.devices(device)[0]
    cores = getattr(device, "core_count", None)
    return AbstractDevice(device.device_kind, cores, device.platform)


def multiprocessors() -> int:
    """Returns over how many multiprocessors of the target GPU a kernel spreads."""
    return target_device().num_cores or 132  # Of an H100 or H200.


def unsupported(
    operation: str, implementation: str, reason: str, *arrays: Any
) -> NotImplementedError:
    """Makes the error to raise for an input that a form does not take."""
    inputs = ", ".join(f"{x.dtype}{list(x.shape)}" for x in arrays)
    return NotImplementedError(
        f"{operation}: implementation {implementation!r} does not take {inputs} on "
        f"{target_device().device_kind!r}: {reason}"
    )


def preferred_form(operation: str, array: jax.Array, size: int | None = None) -> str:
    """Looks up what `PREFERRED` says of the target device and this input.

    Args:
      operation: its name there.
      array: the operation's first array.
      size: see `run`.
    """
    size = array.size if size is None else size
    kind = target_device().device_kind
    rows = [r for r in PREFERRED[operation] if re.fullmatch(r.devices, kind)]
    if not rows:
        _log_once(f"{operation}: {kind!r} was never measured; running the reference")
    for row in rows:
        if array.dtype.name in row.dtypes and size >= row.least_size:
            return row.form
    return "reference"


@functools.cache
def _log_once(message: str) -> None:
    logger.warning(message)
