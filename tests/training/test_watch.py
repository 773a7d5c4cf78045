"""The thread of signs of life."""

import threading

from linearsr_jax.training.watch import Watch


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
