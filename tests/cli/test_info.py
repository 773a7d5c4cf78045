"""`linearsr info`: the bundled model as JSON and as text."""

import json

from tests.cli.running import run


def test_info(capsys):
    code, out, _ = run(capsys, "info", "--json")
    assert code == 0
    assert json.loads(out)["model"]["parameters"] == 1_185_552
    assert "sha256" in run(capsys, "info")[1]


def test_the_slider(capsys):
    assert "default_fidelity: 0.9\n" in run(capsys, "info")[1]
    _, out, _ = run(capsys, "info", "--model", "nano-flow", "--json")
    assert json.loads(out)["model"]["default_fidelity"] is None
