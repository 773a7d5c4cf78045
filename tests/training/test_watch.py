"""The thread of signs of life, and the end of a process that JAX aborts."""

import re
import signal
import threading

from linearsr_jax.training import watch as watch_module
from linearsr_jax.training.watch import Watch
from tests.processes_testing import running_together

CONNECTED = """
import sys, time
from linearsr_jax.training import watch
from linearsr_jax.training.hosts import connected
watch.SILENCE = float(sys.argv[3])
with connected(coordinator=sys.argv[1], process=int(sys.argv[2]), processes=2):
    print("connected", flush=True)
    time.sleep(600)
"""


class Client:
    """Stands for JAX's client of its coordination service."""

    def __init__(self):
        self.signs = {}
        self.has_sign = threading.Event()

    def key_value_set(self, key, value, *, allow_overwrite):
        assert allow_overwrite
        self.signs[key] = value
        self.has_sign.set()

    def key_value_dir_get(self, folder):
        return list(self.signs.items())


def test_no_thread_is_left():
    """One that is inside JAX's client while Python closes aborts the process."""
    client = Client()
    watch = Watch(client)
    assert client.has_sign.wait(60)
    watch.end()
    watch.join()
    assert "watch" not in [thread.name for thread in threading.enumerate()]
    assert client.signs.keys() == {"linearsr_alive/0"}


def end_of_the_other(silence, end_of_0):
    """Returns exit code and last words of process 1 after something ends process 0."""
    with running_together(CONNECTED, 2, str(silence)) as (first, second):
        for process in (first, second):
            assert process.stdout.readline() == "connected\n"
        first.send_signal(end_of_0)
        # JAX by itself notices a frozen one after 60 s, with a trace of C++.
        _, said = second.communicate(timeout=40)
    return second.returncode, said


def test_the_end_of_process_0_ends_the_other_with_a_line():
    """JAX aborts there, with a trace of C++."""
    code, said = end_of_the_other(20, signal.SIGKILL)
    assert code == 1, said
    # The thread may see it before.
    assert re.search(
        "linearsr: process 1: .*(process 0|another process) has ended", said
    )


LEAVING = """
import os, signal, sys, time
from linearsr_jax.training.hosts import connected
with connected(coordinator=sys.argv[1], process=int(sys.argv[2]), processes=2):
    if sys.argv[2] == "0":
        time.sleep(4)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_end_of_process_0_while_the_other_leaves():
    """It waits for process 0 in JAX's shutdown, and JAX aborts it."""
    with running_together(LEAVING, 2) as (_, second):
        _, said = second.communicate(timeout=60)
    assert second.returncode == 1, said
    assert "linearsr: process 1: aborted" in said


def test_a_frozen_process_0_ends_the_other_with_a_line():
    code, said = end_of_the_other(4, signal.SIGSTOP)
    assert code == 1, said
    assert said.strip().splitlines()[-1] == (
        "linearsr: process 1: process 0 is frozen, or cannot be reached"
    )


def test_a_process_without_a_first_sign_has_longer(monkeypatch):
    said = threading.Event()
    monkeypatch.setattr(watch_module, "_EVERY", 0.01)
    monkeypatch.setattr(watch_module, "SILENCE", 0.2)
    monkeypatch.setattr(watch_module.jax, "process_count", lambda: 2)
    monkeypatch.setattr(Watch, "_leave", lambda self, text: said.set())
    client = Client()
    watch = Watch(client)
    assert not said.wait(1)
    client.signs["linearsr_alive/1"] = "1"
    assert said.wait(60)
    watch.end()
    watch.join()
