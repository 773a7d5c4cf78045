"""What tests of several processes on one machine share."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

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


@contextlib.contextmanager
def running_together(
    code: str, count: int, *arguments: str, devices: int = 1
) -> Iterator[list[subprocess.Popen]]:
    """Runs a program as several processes, and kills what is left of them at the end.

    Args:
      code: gets in sys.argv the coordinator's HOST:PORT, the index of the process and
        the further arguments.
      count: number of processes.
      *arguments: further arguments.
      devices: simulated devices of each.
    """
    address, environment = f"127.0.0.1:{find_free_port()}", make_environment(devices)
    with contextlib.ExitStack() as stack:
        processes = []
        for index in range(count):
            process = subprocess.Popen(
                [sys.executable, "-c", code, address, str(index), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield processes
