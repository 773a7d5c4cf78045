"""A small Gemma 2 as transformers saves it, without torch."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from linearsr_jax.convert.gemma2 import config_of

GOLDEN = Path(__file__).parent / "parity" / "golden" / "gemma2.safetensors"


def golden_fields() -> dict:
    """config.json of the golden model, as transformers wrote it."""
    with safe_open(GOLDEN, "numpy") as file:
        return json.loads(file.metadata()["config"])


def golden_weights(dtype=None) -> dict[str, np.ndarray]:
    """Its weights by their names there; bfloat16, unless another type is asked for."""
    return {
        name.removeprefix("weights."): value if dtype is None else value.astype(dtype)
        for name, value in load_file(GOLDEN).items()
        if name.startswith("weights.")
    }


CONFIG = config_of(golden_fields())


def save_source(
    folder: Path, weights: dict | None = None, fields: dict | None = None
) -> Path:
    """Writes a folder as transformers does; its tokenizer.json is none that works."""
    folder.mkdir(parents=True)
    weights = golden_weights() if weights is None else weights
    save_file(weights, folder / "model.safetensors")
    fields = golden_fields() if fields is None else fields
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def save_shards(folder: Path) -> Path:
    """The same in two files and an index; all tensors but those named `model.`."""
    save_source(folder)
    (folder / "model.safetensors").unlink()
    weights = golden_weights()
    names, files = sorted(weights), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def tokenize(text: str) -> list[int]:
    """A token a character, as far as the small vocabulary goes; three for the space."""
    return [
        3 + ord(character) % (CONFIG.vocabulary - 3)
        for character in text.replace(" ", "   ")
    ]
