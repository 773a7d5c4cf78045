"""Programs that are found by what they are made from, without tracing."""

import os

import jax
import numpy as np
import pytest

from linearsr_jax.inference import kept_programs
from linearsr_jax.inference.compilation_cache import enable_compilation_cache
from linearsr_jax.inference.upscaler import Upscaler


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    yield enable_compilation_cache()
    jax.config.update("jax_compilation_cache_dir", own)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


@pytest.fixture
def traces():
    return []


@pytest.fixture
def start(traces):
    """Makes the function as a new process would; it notes when it is traced."""

    def start(described="double", factor=2.0):
        def multiply(tree, y):
            traces.append(y.shape)
            return {"product": factor * tree["x"] @ y}

        return kept_programs.kept(jax.jit(multiply), described)

    return start


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_second_start_traces_nothing(folder, start, traces):
    for _ in range(2):
        program = start()
        for _ in range(2):
            found = program({"x": X}, X.T)["product"]
            np.testing.assert_allclose(found, 2 * X @ X.T)
    assert traces == [(3, 2)]
    assert len(list(folder.glob("*.program"))) == 1


def test_other_shapes_settings_and_code_are_other_programs(
    folder, start, traces, monkeypatch
):
    start()({"x": X}, X.T)
    start()({"x": X[:1]}, X.T)
    start()({"x": X}, X.T.astype(np.float16))
    start("treble", 3.0)({"x": X}, X.T)
    with jax.default_matmul_precision("highest"):
        start()({"x": X}, X.T)
    monkeypatch.setattr(kept_programs, "_surroundings", lambda device: "changed")
    start()({"x": X}, X.T)
    assert len(traces) == len(list(folder.glob("*.program"))) == 6


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", None])
def test_a_damaged_file_is_made_again(folder, start, traces, damage):
    start()({"x": X}, X.T)
    (path,) = folder.glob("*.program")
    good = path.read_bytes()
    path.write_bytes(damage(good) if damage else b"\x80\x04K\x01.")
    for _ in range(2):
        found = start()({"x": X}, X.T)["product"]
        np.testing.assert_allclose(found, 2 * X @ X.T)
    assert len(traces) == 2


def test_what_jax_had_kept_is_not_written_again(folder, start, traces):
    """On CPUs such a file is read, and then lacks functions."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    start()({"x": X}, X.T)
    (path,) = folder.glob("*.program")
    path.unlink()
    for _ in range(2):
        found = start()({"x": X}, X.T)["product"]
        np.testing.assert_allclose(found, 2 * X @ X.T)
    assert not path.exists()
    assert len(traces) == 3


def test_a_program_that_does_not_run_is_made_again(folder, start, traces, monkeypatch):
    start()({"x": X}, X.T)

    def fail(*arguments):
        raise RuntimeError("Function not found")

    monkeypatch.setattr(kept_programs, "_load", lambda path, device: fail)
    found = start()({"x": X}, X.T)["product"]
    np.testing.assert_allclose(found, 2 * X @ X.T)
    assert len(traces) == 2


def test_nothing_is_kept_where_the_user_chose_a_folder(folder, start, tmp_path):
    for place in (None, str(tmp_path), "gs://bucket/programs"):
        jax.config.update("jax_compilation_cache_dir", place)
        start()({"x": X}, X.T)
    assert not list(tmp_path.rglob("*.program"))


def test_the_oldest_are_removed(folder, start, monkeypatch):
    monkeypatch.setattr(kept_programs, "_MOST", 2)
    for rows in (1, 2, 3):
        start()({"x": X}, np.ones((3, rows), np.float32))
        newest = max(folder.glob("*.program"), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (rows, rows))
    assert sorted(p.stat().st_mtime for p in folder.glob("*.program")) == [2, 3]


def test_a_full_disk_stops_nothing(folder, start, monkeypatch):
    def fail(path):
        raise OSError("no space left")

    monkeypatch.setattr(kept_programs, "written_whole", fail)
    np.testing.assert_allclose(start()({"x": X}, X.T)["product"], 2 * X @ X.T)


def test_an_upscaled_image_is_the_same(folder):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    first, second = (Upscaler.from_pretrained("nano")(image) for _ in range(2))
    assert len(list(folder.glob("*.program"))) == 1
    np.testing.assert_array_equal(first, second)
