"""The folder of compiled programs: where it is, and when there is none."""

import subprocess
import sys
import time

import jax
import pytest

from linearsr_jax.inference import compilation_cache


@pytest.fixture
def no_folder():
    """JAX without a folder; the tests' own is given back."""
    own = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", own)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def test_in_the_users_cache(no_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compilation_cache.enable_compilation_cache()
    assert folder.is_dir()
    assert folder.parent == tmp_path / "linearsr_jax"
    assert jax.__version__ in folder.name
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_another_cpu_has_another(no_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = compilation_cache.enable_compilation_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags : fpu sse9\n")
    monkeypatch.setattr(compilation_cache, "_CPU_INFO", info)
    assert compilation_cache.enable_compilation_cache() != first


def test_the_users_own_stays(monkeypatch):
    own = jax.config.jax_compilation_cache_dir
    assert own
    assert compilation_cache.enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir == own


def test_nowhere_to_write(no_folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compilation_cache.enable_compilation_cache() is None
    assert not jax.config.jax_compilation_cache_dir


def test_a_second_start_compiles_nothing_anew(tmp_path):
    """By JAX's own count of hits."""
    script = """
from linearsr_jax.inference.compilation_cache import enable_compilation_cache
enable_compilation_cache()
import jax
hits = []
listener = lambda name, **_: hits.append(name)
jax.monitoring.register_event_listener(listener)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((7, 7)))
print(sum("cache_hits" in name for name in hits))
"""
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-c", script],
                env=environment | {"PATH": "", "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(2)
    ]
    assert counts[0] == 0
    assert counts[1] > 0


def test_a_long_compilation_is_announced_once(caplog):
    announcer = compilation_cache.Announcer(-1.0)
    seen = []

    def on_event(event, **more):
        announcer.on_event(event, **more)
        # As if it took long; a line that never comes must not hang the test.
        end = time.monotonic() + 30
        while "compile_requests" in event and "kept" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.001)

    def on_duration(event, seconds, **more):
        seen.append(event)
        announcer.on_duration(event, seconds, **more)

    caplog.set_level("INFO")
    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        for size in (3, 5):
            with compilation_cache.compiling_for(f"inputs of {size}x{size} pixels"):
                jax.jit(lambda x: x @ x + 0.17)(jax.numpy.ones((size, size)))
    finally:
        jax.monitoring.unregister_event_listener(on_event)
        jax.monitoring.unregister_event_duration_listener(on_duration)
    assert seen.count(compilation_cache._READY) >= 2
    assert caplog.text.count("compiling for") == 1
    assert "compiling for inputs of 3x3 pixels; kept for the next start" in caplog.text


def test_what_is_there_in_time_is_not_announced(caplog):
    caplog.set_level("INFO")
    announcer = compilation_cache.Announcer(1e6)
    for _ in range(2):
        announcer.on_event(compilation_cache._WANTED)
        waiting = announcer._is_ready
        announcer.on_duration("/jax/other", 1.0)
        assert not waiting.is_set()
        announcer.on_duration(compilation_cache._READY, 0.1)
        assert waiting.is_set()
    assert not caplog.text
