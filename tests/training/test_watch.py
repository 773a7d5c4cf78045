"""The thread of signs of life, and the end of a process that JAX aborts."""

import re
import signal
import subprocess
import sys
import threading

from linearsr_jax.training import watch as watch_module
from linearsr_jax.training.watch import Watch
from tests.processes_testing import find_free_port, make_environment

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


def start_two(silence):
    """Two processes that are connected and wait."""
    address, environment = f"127.0.0.1:{find_free_port()}", make_environment(devices=1)
    return [
        subprocess.Popen(
            [sys.executable, "-c", CONNECTED, address, str(process), str(silence)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(2)
    ]


def test_the_end_of_process_0_ends_the_other_with_a_line():
    """JAX aborts there, with a trace of C++."""
    first, second = start_two(silence=20)
    with first, second:
        try:
            for process in (first, second):
                assert process.stdout.readline() == "connected\n"
            first.kill()
            _, said = second.communicate(timeout=60)
        finally:
            for process in (first, second):
                process.kill()
    assert second.returncode == 1, said
    # The thread may see it before.
    assert re.search(
        "linearsr: process 1: .*(process 0|another process) has ended", said
    )


def test_a_frozen_process_0_ends_the_other_with_a_line():
    first, second = start_two(silence=4)
    with first, second:
        try:
            for process in (first, second):
                assert process.stdout.readline() == "connected\n"
            first.send_signal(signal.SIGSTOP)
            # JAX notices after 60 s, with a trace of C++.
            _, said = second.communicate(timeout=40)
        finally:
            for process in (first, second):
                process.kill()
    assert second.returncode == 1, said
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
