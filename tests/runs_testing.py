"""Finished runs as others leave them, for the tests of resuming."""

import shutil
from pathlib import Path


def cut_back(workdir: Path, step: int) -> None:
    """Leaves of a finished run what a kill leaves whose last checkpoint is that."""
    assert (workdir / "checkpoints" / str(step)).is_dir()
    for path in (workdir / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    shutil.rmtree(workdir / "model")
