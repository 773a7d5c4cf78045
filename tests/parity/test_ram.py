"""RAM computes what its parts in transformers do, put together as specified."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from linearsr_jax.convert.ram import convert
from linearsr_jax.tagging.ram import WEIGHTS_FILE
from linearsr_jax.tagging.ram_network import Ram, RamConfig
from linearsr_jax.tagging.swin import SwinConfig
from tests.parity.comparing import relative_error

GOLDEN = Path(__file__).parent / "golden" / "ram.safetensors"
# Six tokens a side in stage 1, three in stage 2, as many as a window has.
CONFIG = RamConfig(
    trunk=SwinConfig(
        image_size=24, patch=2, width=8, depths=(2, 3, 2), heads=(1, 2, 4), window=3
    ),
    tags=7,
    embedding=10,
    width=12,
    heads=3,
    hidden=20,
)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def variables(golden, tmp_path_factory):
    """The twin's weights, through the converter as a user would."""
    folder = tmp_path_factory.mktemp("ram")
    weights = {
        name.removeprefix("weights."): value
        for name, value in golden.items()
        if name.startswith("weights.")
    }
    save_file(weights, folder / "source.safetensors")
    convert(folder / "source.safetensors", folder, CONFIG)
    flat = load_file(folder / WEIGHTS_FILE)
    return {"params": traverse_util.unflatten_dict(flat, sep=".")}


def test_whole(golden, variables):
    run = jax.jit(Ram(CONFIG).apply)
    assert relative_error(run(variables, golden["image"]), golden["logits"]) < TOLERANCE


def test_head(golden, variables):
    @jax.jit
    def run(variables, image):
        ram = Ram(CONFIG).bind(variables)
        embeddings = ram.image_proj(image)
        queries = ram.label_queries()
        # Tags do not see each other: any of them, in any order.
        return (
            embeddings,
            ram.classify(embeddings, queries),
            ram.classify(embeddings, queries[np.array([5, 2])]),
        )

    embeddings, logits, some = run(variables, golden["tokens"])
    assert relative_error(embeddings, golden["embeddings"]) < TOLERANCE
    assert relative_error(logits, golden["logits"]) < TOLERANCE
    assert relative_error(some, golden["logits"][:, [5, 2]]) < TOLERANCE
