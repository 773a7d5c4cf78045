"""Safetensors files one tensor at a time: the library reads what was written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from linearsr_jax.core.tensor_files import (
    read_tensors,
    write_tensors,
    write_tensors_resumably,
)


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


def test_bfloat16(tmp_path):
    """Written from float32: rounded to the nearest, ties to even."""
    path = tmp_path / "a.safetensors"
    given = np.float32([[1, 1 + 2**-8], [1 + 3 * 2**-8, 1 + 2**-8 + 2**-20]])
    expected = np.float32([[1, 1], [1 + 2**-6, 1 + 2**-7]])
    shapes = {"a": given.shape, "b": ()}
    values = {"a": given, "b": np.array(3, np.float32)}
    write_tensors(path, shapes, values.get, {}, "bfloat16")
    for arrays in (load_file(path), read_tensors(path, "bfloat16")):
        assert arrays["a"].dtype == arrays["b"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.float32(arrays["a"]), expected)
        assert arrays["b"].shape == ()
    with pytest.raises(ValueError, match=r"is BF16, and not float32 \(F32\)"):
        read_tensors(path)


class Stopped(Exception):
    """Stands for a power cut."""


def write_some(path, count, metadata=(("x", "1"),), size=3):
    """Five tensors of which `count` may be read; returns the names that were."""
    names = []

    def read(name):
        if len(names) == count:
            raise Stopped
        names.append(name)
        return np.full(size, ord(name), np.float32)

    shapes = dict.fromkeys("abcde", (size,))
    write_tensors_resumably(path, shapes, read, dict(metadata))
    return "".join(names)


def test_goes_on_where_it_was_stopped(tmp_path):
    path, whole = tmp_path / "a.safetensors", tmp_path / "whole.safetensors"
    assert write_some(whole, 5) == "abcde"
    part = tmp_path / "a.safetensors.part"
    for count in (0, 3):
        with pytest.raises(Stopped):
            write_some(path, count)
        assert part.exists()
        assert not path.exists()
    # The last that is there is made again.
    assert write_some(path, 5) == "cde"
    assert path.read_bytes() == whole.read_bytes()
    np.testing.assert_array_equal(load_file(path)["d"], np.full(3, ord("d")))
    # Cut off anywhere, the last bytes lost.
    content = whole.read_bytes()
    start = len(content) - 5 * 12
    for size in (
        0,
        5,
        start - 1,
        start,
        start + 1,
        start + 12,
        start + 30,
        start + 60,
        start + 99,
    ):
        kept = max(size - 2, min(size, start))
        part.write_bytes(content[:kept] + bytes(size - kept))
        write_some(path, 5)
        assert path.read_bytes() == content, size
        assert not part.exists()


def test_a_part_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(Stopped):
        write_some(path, 3)
    for changes in ({"metadata": [("x", "2")]}, {"size": 4}):
        with pytest.raises(ValueError, match=r"a\.safetensors\.part: was begun with"):
            write_some(path, 5, **changes)
    assert not path.exists()
