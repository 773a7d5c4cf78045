"""What all tests share: eight simulated CPU devices, and the folder of benchmarks."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import array_checking  # noqa: F401 (--jaxtyping-packages finds it here)
from tests.xla_flags import make_xla_flags

# Both must stand before anything imports JAX, which reads them once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = make_xla_flags(devices=8)
# Many tests train the same small model: compile each program once a session.
_cache = tempfile.mkdtemp(prefix="linearsr-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def pytest_collection_modifyitems(items):
    """Begins with what trains: a long file that comes last leaves cores idle."""
    items.sort(key=lambda item: item.path.parent.name != "training")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the repository; the test is skipped without it.

    It holds data that may not be committed (benchmarks under other licences).
    """
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the repository: golden data absent")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of three small images with structure, and one that is unusable."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((70, 60), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.png")
    (folder / "broken.png").write_text("not an image")
    return folder
