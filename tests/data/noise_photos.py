"""Small photographs of noise, and files of them."""

import numpy as np
from PIL import Image


def noise(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def save(path, seed=0, height=20, width=30, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, height, width)).save(path, **options)


def cut(path):
    """Cuts off the last third of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
