"""Which form runs, what is said about it, and what is refused."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from kernels_pallas import (
    dispatch,
    glu_depthwise_conv,
    linear_attention,
    linear_attention_qkv,
)
from kernels_pallas.dispatch import Fastest
from kernels_pallas.testing import GPU, TPU, on

X = np.ones((2, 3), np.float32)


def refuse(x):
    raise dispatch.unsupported("op", "cpu", "it is odd", x)


FORMS = {"reference": lambda x: x + 1, "cpu": lambda x: x + 2, "tpu": lambda x: x + 3}


@pytest.fixture(autouse=True)
def prefer(monkeypatch):
    """Sets the table's rows, none at first; and nothing is logged yet."""
    dispatch._log_once.cache_clear()

    def prefer(*rows):
        monkeypatch.setattr(dispatch, "PREFERRED", {"op": rows})

    prefer()
    return prefer


def run(implementation, forms=FORMS):
    return float(
        jax.jit(lambda x: dispatch.run("op", implementation, forms, x))(X)[0, 0]
    )


def test_a_device_that_was_not_measured_runs_the_reference(caplog):
    assert [run(None), run(None)] == [2, 2]
    (record,) = caplog.records  # Once, for two traces.
    assert "op: 'cpu' was never measured" in record.message


def test_the_table_decides(prefer, caplog):
    prefer(Fastest("cpu", "cpu"))
    assert run(None) == 3
    prefer(Fastest("reference", "cpu"))
    assert run(None) == 2
    assert not caplog.records


def test_rows_are_for_families_types_and_sizes(prefer, caplog):
    prefer(
        Fastest("reference", "c.*", least_size=X.size),
        Fastest("cpu", "cpu", dtypes=("float32",)),
    )
    assert run(None) == 2
    prefer(Fastest("cpu", "c.*", least_size=X.size + 1))
    assert run(None) == 2
    prefer(Fastest("cpu", "c.*", dtypes=("bfloat16",)))
    assert run(None) == 2
    assert not caplog.records  # The device was measured, if not for this input.
    prefer(Fastest("cpu", "c"))  # Of "cpu" only a part.
    assert run(None) == 2
    assert "never measured" in caplog.text


def test_a_size_may_be_told(prefer):
    prefer(Fastest("cpu", "cpu", least_size=100))
    sizes = (99, 100)
    assert [dispatch.preferred_form("op", X, n) for n in sizes] == ["reference", "cpu"]


@pytest.mark.parametrize("size", [10, 11])
def test_one_array_and_three_change_at_the_same_size(monkeypatch, size):
    row = Fastest("tpu", "cpu", least_size=11 * 64)
    monkeypatch.setattr(dispatch, "PREFERRED", {"linear_attention": (row,)})
    found = []
    choose = dispatch.preferred_form
    monkeypatch.setattr(
        dispatch, "preferred_form", lambda *x: found.append(choose(*x)) or "reference"
    )
    q = jnp.ones((1, size, 2, 32))
    linear_attention(q, q, q)
    linear_attention_qkv(jnp.ones((1, size, 3 * 64)), 2)
    assert found == ["reference" if size == 10 else "tpu"] * 2


def test_a_form_that_is_no_platforms_runs_anywhere(prefer):
    forms = {**FORMS, "shifted": lambda x: x + 4}
    prefer(Fastest("shifted", "cpu"))
    assert [run(None, forms), run("shifted", forms)] == [5, 5]
    x = np.random.default_rng(0).standard_normal((1, 5, 4, 6), np.float32)
    kernel, bias = np.ones((3, 3, 6), np.float32), np.ones(6, np.float32)
    with on(GPU):
        actual = glu_depthwise_conv(x, kernel, bias, implementation="shifted")
    expected = glu_depthwise_conv(x, kernel, bias, implementation="reference")
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_input_that_is_not_taken_runs_the_reference(prefer, caplog):
    prefer(Fastest("cpu", "cpu"))
    assert [run(None, {**FORMS, "cpu": refuse}) for _ in range(2)] == [2, 2]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "float32[2, 3] on 'cpu': it is odd; running the reference" in record.message


def test_what_is_asked_for_is_not_replaced():
    assert run("cpu") == 3
    with pytest.raises(NotImplementedError, match=r"float32\[2, 3\] on 'cpu'"):
        run("cpu", {**FORMS, "cpu": refuse})
    with pytest.raises(NotImplementedError, match="this form is for TPUs"):
        run("tpu")
    with pytest.raises(ValueError, match="'triton'; there are 'reference', 'cpu'"):
        run("triton")


def test_lowering_for_another_platform_takes_its_own_form(prefer):
    """A function that was traced with the CPU in mind may be lowered for a TPU."""
    prefer(Fastest("cpu", "cpu"))
    traced = jax.jit(lambda x: dispatch.run("op", None, FORMS, x)).trace(X)
    assert "2.000000e+00" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "1.000000e+00" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_the_target_device():
    assert dispatch.target_device().platform == "cpu"
    with on(TPU):
        assert dispatch.target_device().device_kind == "TPU v5 lite"
    with on(GPU):
        assert dispatch.target_device().platform == "gpu"
    for device in ("cpu", jax.devices("cpu")[1]):
        with jax.default_device(device):
            assert dispatch.target_device().platform == "cpu"


@pytest.mark.parametrize("implementation", ["tpu", "gpu"])
def test_kernels_are_refused_on_cpu(implementation):
    q = jnp.ones((1, 64, 2, 32), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match=r"linear_attention.* on 'cpu'"):
        linear_attention(q, q, q, implementation=implementation)
    x, kernel, bias = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2)), jnp.ones(2)
    with pytest.raises(NotImplementedError, match=r"glu_depthwise_conv.* on 'cpu'"):
        glu_depthwise_conv(x, kernel, bias, implementation=implementation)


def test_gpus_other_than_hopper_are_refused():
    forms = {**FORMS, "gpu": lambda x: x + 4}
    for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA GH200 480GB"):
        with on(AbstractDevice(kind, 132, "gpu")):
            np.testing.assert_array_equal(dispatch.run("op", "gpu", forms, X), X + 4)
    for kind in ("NVIDIA A100-SXM4-80GB", "NVIDIA B200", "AMD Instinct MI300X"):
        with (
            on(AbstractDevice(kind, 108, "gpu")),
            pytest.raises(NotImplementedError, match=f"{kind}.*compute capability 9.0"),
        ):
            dispatch.run("op", "gpu", forms, X)


def test_the_table_names_operations_and_forms(monkeypatch):
    monkeypatch.undo()
    operations = "linear_attention", "glu_depthwise_conv", "cross_attention"
    assert dispatch.PREFERRED.keys() == set(operations)
    forms = {row.form for rows in dispatch.PREFERRED.values() for row in rows}
    assert forms <= {"reference", "shifted", *dispatch.LOWERING_PLATFORM}
