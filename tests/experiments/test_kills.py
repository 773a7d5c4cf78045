"""The experiment that kills a run of two processes, short: nothing shows afterwards."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_kills_leave_no_trace(photos, tmp_path, monkeypatch):
    path = ROOT / "experiments" / "202611_kills" / "kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    kills = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)
    monkeypatch.setattr(kills, "HERE", tmp_path)
    monkeypatch.chdir(ROOT)
    arguments = ["--kills", "3", "--steps", "60", "--seed", "3"]
    work = tmp_path / "work"
    monkeypatch.setattr(sys, "argv", ["kills.py", str(photos), str(work), *arguments])
    kills.main()
    result = json.loads((tmp_path / "results_2.json").read_text())
    assert len(result["kills"]) == 3
    assert result["losses"] == 60
    assert result["losses_that_differ"] == result["weights_that_differ"] == 0
