"""The README's Python block does what it says."""

import re
from pathlib import Path

import numpy as np
import PIL.Image

ROOT = Path(__file__).resolve().parents[1]


def test_python_block_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    # Less of it, for the sake of time.
    small = PIL.Image.open("docs/images/sample.png").convert("RGB").crop((0, 0, 24, 16))
    monkeypatch.setattr(PIL.Image, "open", lambda path: small)
    names = {}
    exec(block, names)
    assert names["image_hr"].size == (96, 64)
    assert np.std(np.asarray(names["image_hr"])) > 0
