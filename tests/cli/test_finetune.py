"""`linearsr finetune`: what is printed; tests/training/test_finetune.py trains."""

import json
from pathlib import Path

import pytest

from linearsr_jax.evaluation.tables import Average, Row
from linearsr_jax.training import finetune as module
from tests.cli.running import run

ROWS = [Row("after", 2, {"psnr": Average(25.0, 0.5)})]


@pytest.fixture
def asked_for(monkeypatch):
    """The arguments that the command passes on."""
    asked_for = {}

    def finetune(photos, workdir, **settings):
        asked_for.update(settings, photos=photos, workdir=workdir)
        return module.Comparison(Path("mine/model"), {"bicubic": ROWS})

    monkeypatch.setattr(module, "finetune", finetune)
    return asked_for


def test_table_and_what_to_do_next(capsys, asked_for, tmp_path):
    code, out, _ = run(capsys, "finetune", tmp_path, "--workdir", tmp_path / "run")
    assert code == 0
    first, _, row, *_, last = out.splitlines()
    assert first == "held-out photographs, bicubic input"
    assert row.split()[:3] == ["after", "2", "25.0000"]
    assert last == "linearsr upscale IN -o OUT --model mine/model"
    assert (asked_for["photos"], asked_for["model"]) == (tmp_path, "nano")


def test_json_and_overrides(capsys, asked_for, tmp_path):
    arguments = ["finetune", tmp_path, "--workdir", tmp_path / "run", "--json"]
    overrides = ["--override", "steps=2", "seed=1", "--override", "batch_size=4"]
    code, out, _ = run(capsys, *arguments, *overrides)
    assert code == 0
    rows = [{"name": "after", "n": 2, "psnr": {"mean": 25.0, "stderr": 0.5}}]
    assert json.loads(out) == {"model": "mine/model", "bicubic": {"rows": rows}}
    assert asked_for["overrides"] == ["steps=2", "seed=1", "batch_size=4"]


def test_a_field_that_does_not_exist(capsys, photos, tmp_path):
    arguments = ["finetune", photos, "--workdir", tmp_path / "run"]
    code, _, err = run(capsys, *arguments, "--override", "step=3")
    assert code == 2
    assert "step" in err
