"""Programs that are found by what they are made from, without tracing."""

import contextlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from linearsr_jax import write_image
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

        return kept_programs.keep_programs(jax.jit(multiply), described)

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
    monkeypatch.setattr(kept_programs, "_SOURCES", "changed")
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


def test_what_jax_had_kept_is_not_written_again(folder, start, traces, monkeypatch):
    """On CPUs such a file is read, and then lacks functions."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    kept = contextlib.nullcontext([])
    with monkeypatch.context() as patched:
        # JAX keeps this one itself; its cache outlives the test.
        patched.setattr(kept_programs, "_without_jax_keeping", lambda: kept)
        start("five", 5.0)({"x": X}, X.T)
    for path in folder.glob("*.program"):
        path.unlink()
    for _ in range(2):
        found = start("five", 5.0)({"x": X}, X.T)["product"]
        np.testing.assert_allclose(found, 5 * X @ X.T)
    assert not list(folder.glob("*.program"))
    assert len(traces) == 3


def test_a_program_that_does_not_run_is_made_again(folder, start, traces, monkeypatch):
    start()({"x": X}, X.T)
    monkeypatch.setattr(kept_programs, "_load", lambda path, device: fail)
    found = start()({"x": X}, X.T)["product"]
    np.testing.assert_allclose(found, 2 * X @ X.T)
    assert len(traces) == 2


def fail(*arguments):
    raise RuntimeError("Function not found")


def test_a_program_that_runs_out_of_memory_is_not(folder, start, traces, monkeypatch):
    """The caller takes smaller parts."""
    start()({"x": X}, X.T)

    def run_out(*arguments):
        raise MemoryError

    monkeypatch.setattr(kept_programs, "_load", lambda path, device: run_out)
    with pytest.raises(MemoryError):
        start()({"x": X}, X.T)
    assert len(traces) == 1


@pytest.mark.skipif(os.name != "posix", reason="owners of files")
def test_a_folder_that_others_write_to_is_not_trusted(folder, start):
    folder.chmod(0o777)
    start()({"x": X}, X.T)
    assert not list(folder.iterdir())


def test_nothing_is_kept_where_the_user_chose_a_folder(folder, start, tmp_path):
    for place in (None, str(tmp_path), "gs://bucket/programs"):
        jax.config.update("jax_compilation_cache_dir", place)
        start()({"x": X}, X.T)
    assert not list(tmp_path.rglob("*.program"))


def test_a_deleted_folder_stops_nothing(folder, start):
    program = start()
    folder.rmdir()
    for run in (program, start()):
        np.testing.assert_allclose(run({"x": X}, X.T)["product"], 2 * X @ X.T)


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


def test_a_second_process_traces_nothing(tmp_path):
    photo = tmp_path / "photo.png"
    write_image(photo, np.full((6, 5, 3), 99, np.uint8))
    command = [sys.executable, "-m", "linearsr_jax", "upscale", photo, "--overwrite"]
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_LOG_COMPILES": "1"}
    environment |= {"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"}
    logs, images = [], []
    for _ in range(2):
        target = tmp_path / "o.png"
        done = subprocess.run(
            [*command, "-o", target],
            env=environment | {"PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        logs.append(done.stderr)
        images.append(target.read_bytes())
    assert "Compiling jit(upscale)" in logs[0]
    assert "Compiling jit(upscale)" not in logs[1]
    assert images[0] == images[1]
