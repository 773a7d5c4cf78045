"""What tests of several processes on one machine share."""

import os
import socket
import sys

from tests.xla_flags import make_xla_flags


def find_free_port() -> int:
    """Finds a port for the coordinator."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def make_environment(devices: int) -> dict[str, str]:
    """Makes the environment of a process with so many simulated devices."""
    return {
        **os.environ,
        "XLA_FLAGS": make_xla_flags(devices),
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
