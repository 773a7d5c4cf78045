"""How far from the reference an output is, as all parity tests measure it."""

import numpy as np


def relative_error(actual, expected):
    """The largest difference over the largest expected value; shapes must agree."""
    actual, expected = np.float64(actual), np.float64(expected)
    assert actual.shape == expected.shape
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))
