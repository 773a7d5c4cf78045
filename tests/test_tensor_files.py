"""Safetensors files one tensor at a time: the library reads what was written."""

import jax
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from linearsr_jax.tensor_files import read_tensors, sha256, write_tensors


def test_parts_are_joined_along_the_first_axis(tmp_path):
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((5, 3, 2)).astype(np.float32)
    path = tmp_path / "a.safetensors"
    parts = (part for part in (expected[:2], expected[2:2], expected[2:]))
    write_tensors(path, {"a": expected.shape}, lambda _: parts, {"source": "x"})
    np.testing.assert_array_equal(load_file(path)["a"], expected)


@pytest.mark.parametrize("shape", [(4, 3), (6, 3), (5, 2), (5,)])
def test_tensors_of_another_shape_leave_no_file(tmp_path, shape):
    for found in (np.zeros(shape, np.float32), [np.zeros(shape, np.float32)]):
        with pytest.raises(ValueError, match="a: has"):
            write_tensors(
                tmp_path / "a.safetensors", {"a": (5, 3)}, lambda _, x=found: x, {}
            )
    assert list(tmp_path.iterdir()) == []


def test_reads_what_the_library_wrote(tmp_path):
    path = tmp_path / "a.safetensors"
    rng = np.random.default_rng(0)
    shapes = {"a": (2, 3), "b": (), "c": (0, 2), "d": (7,)}
    expected = {
        name: np.asarray(rng.standard_normal(shape), np.float32)
        for name, shape in shapes.items()
    }
    save_file(expected, path, metadata={"source": "x"})
    actual = read_tensors(path)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(actual[name], value)
        assert actual[name].flags.writeable


def test_jax_on_cpu_needs_no_second_copy(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({str(n): np.zeros(n * 1001, np.float32) for n in range(1, 9)}, path)
    for array in read_tensors(path).values():
        on_device = jax.device_put(array, jax.devices("cpu")[0])
        assert on_device.unsafe_buffer_pointer() == array.ctypes.data


def test_other_types_and_damage_are_errors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros(3, np.float16)}, path)
    with pytest.raises(ValueError, match="a is F16"):
        read_tensors(path)
    save_file({"a": np.zeros(300, np.float32)}, path)
    for size in (1000, 20, 7, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(SafetensorError):
            read_tensors(path)


def test_sha256(tmp_path):
    path = tmp_path / "abc"
    # Of "abc", as FIPS 180 gives it.
    path.write_bytes(b"abc")
    assert sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")
