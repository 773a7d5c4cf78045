"""Processes that do not find each other, or fail while connected, end with a line."""

import importlib.util
import subprocess
import sys

import jax
import pytest

from linearsr_jax.training import hosts
from linearsr_jax.training.record import BadFieldError, TrainError
from tests.processes_testing import find_free_port, make_environment

# Only keeps a test that fails from waiting for JAX's five minutes.
LIMIT = 120


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=make_environment(devices=1),
    )


def test_a_jax_that_has_moved_what_is_private(capsys, monkeypatch):
    """Nothing but a detail of one message needs it."""
    monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
    monkeypatch.delattr("jax._src.distributed")
    spec = importlib.util.spec_from_file_location("hosts_again", hosts.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    monkeypatch.setattr(again.os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match="69"):
        again._give_up()
    assert capsys.readouterr().err == (
        "linearsr: after 300 s not all processes have reached the coordinator; run the "
        "same command on each host\n"
    )


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_whose_others_never_start_says_so(process):
    port = find_free_port()
    code = f"""
from linearsr_jax.training import hosts
hosts._CONNECT = 2
with hosts.connected("127.0.0.1:{port}", {process}, 2):
    pass
"""
    alone = start(code)
    _, text = alone.communicate(timeout=LIMIT)
    assert alone.returncode == 69, text
    assert text.splitlines()[-1] == (
        "linearsr: after 2 s not all 2 processes have reached the coordinator "
        f"127.0.0.1:{port}; run the same command on each host"
    )


def test_whatever_fails_inside_waits_for_nobody():
    """JAX's shutdown would, for five minutes."""
    code = """
import sys, time
from linearsr_jax.training.hosts import connected
with connected(f"127.0.0.1:{sys.argv[1]}", int(sys.argv[2]), 2):
    if sys.argv[2] == "1":
        raise KeyboardInterrupt
    time.sleep(600)
"""
    port = find_free_port()
    other, failing = (start(code, port, process) for process in range(2))
    try:
        _, text = failing.communicate(timeout=LIMIT)
    finally:
        for process in (other, failing):
            process.kill()
            process.communicate()
    assert failing.returncode == 130, text
    assert text.endswith("linearsr: process 1: interrupted\n")


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (KeyboardInterrupt(), "process 0: interrupted\n", 130),
        (SystemExit(75), "", 75),
        (SystemExit(), "", 0),
        (SystemExit("no"), "process 0: no\n", 1),
        (ValueError("a\nb"), "process 0: a b\n", 1),
        (BadFieldError("steps must be 1"), "process 0: steps must be 1\n", 2),
    ],
)
def test_how_one_of_several_ends(monkeypatch, capsys, error, text, code):
    codes = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.os, "_exit", codes.append)
    with hosts.ending_together():
        raise error
    assert codes == [code]
    assert capsys.readouterr().err == (f"linearsr: {text}" if text else "")


def test_one_alone_raises():
    with pytest.raises(KeyboardInterrupt), hosts.ending_together():
        raise KeyboardInterrupt


def test_a_pod_that_would_train_alone_beside_others(caplog):
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    hosts._check_kubernetes(pod)
    hosts._check_kubernetes({"JOB_COMPLETION_INDEX": "1"})
    assert not caplog.records
    # The only one of its Job, perhaps.
    hosts._check_kubernetes(pod | {"JOB_COMPLETION_INDEX": "0"})
    assert 'pip install "jax[k8s]", or pass --coordinator' in caplog.text
    with pytest.raises(TrainError, match="pod 1 of a Kubernetes Job trains alone"):
        hosts._check_kubernetes(pod | {"JOB_COMPLETION_INDEX": "1"})
