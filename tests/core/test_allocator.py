"""What is freed serves the next allocation, where the C library can be told so."""

import json
import platform
import subprocess
import sys
import types

import pytest

from linearsr_jax.core import allocator

# Pages that are faulted in by twenty blocks of 64 MB, one after another.
SCRIPT = """
import json, resource
from linearsr_jax.core.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(b"x") * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_it_was = faults()
is_kept = keep_freed_memory()
print(json.dumps([is_kept, as_it_was, faults()]))
"""


def test_freed_memory_is_used_again():
    command = [sys.executable, "-c", SCRIPT]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    is_kept, before, after = json.loads(output)
    assert is_kept == (platform.libc_ver()[0] == "glibc")
    if is_kept:
        # One block is faulted in once.
        assert after < before / 10


@pytest.mark.parametrize(
    ("platforms", "plugin", "is_kept"),
    [
        ("cpu", "json", True),
        (None, "json", False),
        (None, "no_such_package", True),
        ("cuda", "no_such_package", False),
    ],
)
def test_only_where_jax_will_use_cpus(monkeypatch, platforms, plugin, is_kept):
    called = []
    config = types.SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setattr(allocator, "jax", types.SimpleNamespace(config=config))
    monkeypatch.setattr(allocator, "_PLUGINS", (plugin,))
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: called.append(1))
    allocator.keep_freed_memory_on_cpu()
    assert bool(called) == is_kept
