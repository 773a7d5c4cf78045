"""What is freed serves the next allocation, where the C library can be told so."""

import json
import platform
import subprocess
import sys

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
