"""`linearsr info`: the bundled model as JSON and as text."""

import json

from tests.cli.running import run


def test_info(capsys):
    code, out, _ = run(capsys, "info", "--json")
    assert code == 0
    assert json.loads(out)["model"]["parameters"] == 1_185_552
    assert "sha256" in run(capsys, "info")[1]
