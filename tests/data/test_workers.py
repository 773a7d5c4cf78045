"""Worker processes outlive the signals of their group, and not their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing
import signal
import grain
from linearsr_jax.data.pipeline import make_iterator

if __name__ == "__main__":
    # Where the tests run in the background, SIGINT is ignored, and children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dataset = grain.MapDataset.range(10**6).batch(2)
    iterator = make_iterator(dataset, num_workers=2)
    next(iterator)
    children = multiprocessing.active_children()
    try:
        print(*[child.pid for child in children], flush=True)
        input()
        while True:
            next(iterator)
    except KeyboardInterrupt:
        batch = [next(iterator) for _ in range(20)][-1]
        print("went on to", batch[-1] > 20, flush=True)
"""


@pytest.fixture
def parent(tmp_path):
    """A process with two workers, in a process group of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
    ) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Tells whether there is such a process, which init may still have to reap."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " not in stat.read_text()


def test_workers_end_with_a_parent_that_was_killed(parent):
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def test_a_signal_to_the_group_leaves_the_workers_at_work(parent):
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.stdout.readline() == "went on to True\n"
    assert parent.wait(timeout=30) == 0
