"""The notebook runs from top to bottom, on a CPU, with a shorter training."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.xla_flags import make_xla_flags

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "linearsr.ipynb"
STEPS = 10


def code_cells():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    # It is kept as nobody has run it yet.
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    return ["".join(cell["source"]) for cell in cells]


def replace_parameter(source, name, value):
    source, count = re.subn(
        rf"^{name} = [^#]*", f"{name} = {value!r}  ", source, flags=re.M
    )
    assert count == 1
    return source


def test_runs(tmp_path):
    """As one program: it has no commands of IPython."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("linearsr_jax", "configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(ROOT / "docs" / "images" / "sample.png", photos)
    source = "\n\n".join(code_cells())
    source = replace_parameter(source, "STEPS", STEPS)
    source = replace_parameter(source, "PHOTOS", str(photos))
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "Agg", "XLA_FLAGS": make_xla_flags(devices=1)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "(160, 120) -> (640, 480)" in done.stdout
    assert "none None" in done.stdout
    with Image.open(folder / "photo_x4.png") as image:
        assert image.size == (640, 480)
    assert (folder / "runs" / "debug" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("smi", "packages", "variables", "extra"),
    [
        (None, {}, {}, ""),
        (None, {}, {"TPU_ACCELERATOR_TYPE": "v5e-1"}, "tpu"),
        ("550.54.15, 7.5", {}, {}, "cuda12"),
        ("580.65.06, 7.5", {}, {}, "cuda13"),
        ("580.65.06, 7.0", {}, {}, "cuda12"),
        ("580.65.06, 9.0", {"jax-cuda12-plugin": "0.7.2"}, {}, "cuda12"),
        ("580.65.06, 9.0", {"jax-cuda13-plugin": "0.9.0"}, {}, "cuda13"),
        ("", {}, {}, ""),
    ],
)
def test_the_extra_for_a_machine(
    tmp_path, monkeypatch, smi, packages, variables, extra
):
    for name in list(os.environ):
        if name.startswith(("TPU_", "COLAB_TPU")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    if smi is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n[ -n '{smi}' ] && echo '{smi}'\n")
        tool.chmod(0o755)
    source = code_cells()[0].partition("ROOT = ")[0]
    names: dict = {}
    exec(source, names)
    names["installed"] = packages.get
    assert names["accelerator_extra"]() == extra
