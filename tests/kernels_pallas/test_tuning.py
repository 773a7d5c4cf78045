"""The values of the kernels: whose they are, and that trying others does something."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from kernels_pallas import glu_depthwise_conv, linear_attention, tuning
from kernels_pallas.testing import GPU, TPU, lower, on, value_and_gradients


def test_the_row_of_the_device_comes_first(monkeypatch):
    ours, others = (tuning.GluOnTpu(n, 16, 2**20) for n in (128, 256))
    rows = (("TPU v4", others), ("TPU v5 lite", ours), (r"NVIDIA.*", GPU))
    monkeypatch.setattr(tuning, "TUNED", rows)
    with on(TPU):
        assert tuning.tuned(tuning.GluOnTpu) is ours
    with on(GPU):  # Where it is only interpreted.
        assert tuning.tuned(tuning.GluOnTpu) is others


def test_the_inner_one_of_two_contexts_counts():
    usual = tuning.tuned(tuning.AttentionOnTpu)
    with tuning.trying(tuning.AttentionOnTpu(16)):
        with tuning.trying(tuning.AttentionOnTpu(32)):
            assert tuning.tuned(tuning.AttentionOnTpu).tokens == 32
        assert tuning.tuned(tuning.AttentionOnTpu).tokens == 16
        assert tuning.tuned(tuning.GluOnTpu) is not None
    assert tuning.tuned(tuning.AttentionOnTpu) == usual


def lowered(device, operation, shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    # A function of its own: jax.jit keeps what it traced before.
    run = functools.partial(operation, implementation=device.platform)
    return lower(run, device, *arrays)


def with_gradients(*arrays, implementation):
    operation = functools.partial(glu_depthwise_conv, implementation=implementation)
    return value_and_gradients(operation, arrays, jnp.ones((2, 64, 64, 256)))


QKV = ((1, 4096, 70, 32),) * 3
GLU = ((2, 64, 64, 2 * 256), (3, 3, 2 * 256), (2 * 256,))


@pytest.mark.parametrize(
    ("device", "operation", "shapes", "kind", "change"),
    [
        (GPU, linear_attention, QKV, tuning.AttentionOnGpu, {"steps": 4}),
        (GPU, linear_attention, QKV, tuning.AttentionOnGpu, {"stages": 3}),
        (GPU, glu_depthwise_conv, GLU, tuning.GluOnGpu, {"channels": 128}),
        (GPU, glu_depthwise_conv, GLU, tuning.GluOnGpu, {"rows": (4,)}),
        (GPU, with_gradients, GLU, tuning.GluOnGpu, {"gradient_bands": (4,)}),
        (TPU, linear_attention, QKV, tuning.AttentionOnTpu, {"tokens": 256}),
        (TPU, glu_depthwise_conv, GLU, tuning.GluOnTpu, {"channels": 256}),
        (TPU, glu_depthwise_conv, GLU, tuning.GluOnTpu, {"rows": 8}),
    ],
)
def test_a_tried_value_changes_the_kernel(device, operation, shapes, kind, change):
    before = lowered(device, operation, shapes)
    with on(device):
        tried = dataclasses.replace(tuning.tuned(kind), **change)
    with tuning.trying(tried):
        assert lowered(device, operation, shapes) != before
    assert lowered(device, operation, shapes) == before
