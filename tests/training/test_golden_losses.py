"""The losses of debug's first 50 steps are those that are written down.

They are the project's own: what changes them changes every run, on purpose or not. On
purpose, write them anew with `python -m tests.training.test_golden_losses`, and say why
in the commit.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from configs import debug
from linearsr_jax.training.loop import train_and_evaluate

GOLDEN = Path(__file__).with_name("golden") / "debug_losses.json"
STEPS = 50


def write_photographs(folder: Path) -> None:
    """Writes three images with structure that need no decoder's rounding."""
    rng = np.random.default_rng(7)
    for i in range(3):
        coarse = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((8, 8, 1), np.uint8))).save(
            folder / f"{i}.png"
        )


def train(folder: Path) -> list[float]:
    """Trains the preset debug, and returns the loss of each step."""
    photographs = folder / "photographs"
    photographs.mkdir()
    write_photographs(photographs)
    config = debug.get_config()
    config.steps, config.log_every, config.checkpoint_every = STEPS, 1, STEPS
    config.data.folder = str(photographs)
    config.data.crop_size = 32
    # The host's JPEG and blur may round otherwise with other versions of libraries.
    config.data.degradations = {"bicubic": 1.0}
    train_and_evaluate(config.lock(), folder / "run")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_losses_are_those_written_down(tmp_path):
    expected = json.loads(GOLDEN.read_text())
    assert len(expected) == STEPS
    # Rounding differs between processors, numbers of devices and versions of XLA.
    np.testing.assert_allclose(train(tmp_path), expected, rtol=1e-2)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        losses = [float(f"{loss:.6g}") for loss in train(Path(name))]
    GOLDEN.write_text(json.dumps(losses, indent=0) + "\n")
