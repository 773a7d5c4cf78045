"""VGG16 with random weights, for tests that must not need the real ones."""

import numpy as np

from linearsr_jax.metrics import vgg16


def random_vgg16() -> dict[str, np.ndarray]:
    """Draws weights of a size that keeps activations near 1."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in vgg16.PARAMETER_SHAPES.items():
        if name.endswith("kernel"):
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:3]))
        else:
            value = rng.uniform(0, 0.1, size=shape)
        tensors[name] = value.astype(np.float32)
    return tensors
