"""Taggers by name."""

import subprocess
import sys

import numpy as np
import pytest

from linearsr_jax.tagging import TaggerError, load_tagger


def test_none_says_nothing():
    tagger = load_tagger("none")
    assert tagger.name == "none"
    assert tagger(np.zeros((2, 2, 3), np.uint8)) == []


@pytest.mark.parametrize("name", ["", "ram", "ram:", "Light", "clip"])
def test_unknown_names(name):
    with pytest.raises(TaggerError, match="use light, ram:FOLDER or none"):
        load_tagger(name)


def test_a_tagger_brings_only_what_it_needs():
    code = (
        "import sys; from linearsr_jax.tagging import load_tagger; load_tagger('light')"
        "; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "linearsr_jax.tagging.efficientnet_lite" in loaded
    heavy = {"grain", "optax", "orbax", "tensorflow", "torch"}
    assert not loaded & (heavy | {"linearsr_jax.models", "linearsr_jax.tagging.swin"})
