"""Safetensors files one tensor at a time: the library reads what was written."""

import numpy as np
import pytest
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
    expected = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(3.0, np.float16),
        "c": np.zeros((0, 2), np.int8),
    }
    save_file(expected, path)
    actual = read_tensors(path)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(actual[name], value)
    # Of "abc", as FIPS 180 gives it.
    path.write_bytes(b"abc")
    assert sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")
