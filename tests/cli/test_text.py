"""`linearsr text`: files that upscaling and training take; what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open

from linearsr_jax.convert.gemma2 import convert
from linearsr_jax.data.condition_table import table_of_features
from linearsr_jax.inference.guidance import condition_from_file
from linearsr_jax.models.presets import get_preset
from linearsr_jax.text_encoder import encoder as encoders
from linearsr_jax.text_encoder.encoder import TextEncoder
from tests.cli.running import run
from tests.gemma2_testing import CONFIG, save_source, tokenize

PRESET = dataclasses.replace(get_preset("600m"), condition_features=CONFIG.width)
TAGS = {
    "b.png": ["zoo", "abacus"],
    "deep/a.png": [],
    "c.png": ["yacht"],
    "a.png": ["zoo", "abacus"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma2")
    convert(save_source(folder / "source"), folder / "ours")
    return folder / "ours"


@pytest.fixture(autouse=True)
def _tokenizer(monkeypatch):
    monkeypatch.setattr(encoders, "load_tokenizer", lambda path, size: tokenize)


def save_cache(path, tags):
    origin = {"sha256": "0", "tagger": "light", "version": "1", "input": "hr"}
    lines = [
        json.dumps({"file": file, **origin, "tags": [[word, 0.5] for word in words]})
        for file, words in tags.items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_one_text_for_upscaling(capsys, folder, tmp_path):
    path = tmp_path / "text.safetensors"
    arguments = ["text", "rose, leaf", "--encoder", folder, "-o", path]
    code, out, _ = run(capsys, *arguments)
    assert (code, out) == (0, f"{path}: 13 tokens\n")
    condition = condition_from_file(path, PRESET)
    expected = TextEncoder.load(folder)("rose, leaf")
    np.testing.assert_array_equal(condition.tokens, expected[None])
    assert condition.mask.all()
    before = path.read_bytes()
    code, _, err = run(capsys, *arguments)
    assert (code, path.read_bytes()) == (1, before)
    assert "exists; remove it or give --overwrite" in err
    options = ["--overwrite", "--json", "--dtype", "bfloat16"]
    code, out, _ = run(capsys, *arguments, *options)
    assert json.loads(out) == {"output": str(path), "tokens": 13}
    with safe_open(path, "numpy") as file:
        assert file.metadata()["dtype"] == "bfloat16"
    half = condition_from_file(path, PRESET).tokens
    np.testing.assert_allclose(half, condition.tokens, atol=0.05 * np.abs(half).max())


def test_no_text(capsys, folder, tmp_path):
    path = tmp_path / "null.safetensors"
    code, out, _ = run(capsys, "text", "", "--encoder", folder, "-o", path)
    assert (code, out) == (0, f"{path}: 1 tokens\n")
    assert condition_from_file(path, PRESET).tokens.shape == (1, 1, CONFIG.width)


def test_the_photographs_of_a_cache(capsys, folder, tmp_path):
    cache = save_cache(tmp_path / "tags.jsonl", TAGS)
    path = tmp_path / "features.safetensors"
    arguments = ["text", "--tags", cache, "--encoder", folder, "-o", path, "--json"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert json.loads(out)["photographs"] == 4
    assert json.loads(out)["texts"] == 3
    table = table_of_features(path, list(TAGS), features=CONFIG.width, max_tokens=20)
    encoder = TextEncoder.load(folder)
    for row, words in enumerate(TAGS.values()):
        expected = encoder(", ".join(words))
        assert table.mask[row].sum() == len(expected)
        np.testing.assert_array_equal(table.tokens[row][: len(expected)], expected)


def test_whose_instruction_it_is_is_said(capsys, folder, tmp_path):
    path = tmp_path / "text.safetensors"
    (tmp_path / "chi.txt").write_text("go: \n")
    arguments = ["text", "rose", "--encoder", folder, "-o", path]
    code, out, err = run(capsys, *arguments, "--instruction", tmp_path / "chi.txt")
    # BOS, the space's last token, four letters.
    assert (code, out) == (0, f"{path}: 6 tokens\n")
    assert "instruction: unknown, SHA-256 " in err
    (tmp_path / "chi.txt").write_text("")
    path.unlink()
    code, _, err = run(capsys, *arguments, "--instruction", tmp_path / "chi.txt")
    assert code == 1
    assert "chi.txt: is empty" in err
    assert not path.exists()


def test_wrong_usage(capsys, folder, tmp_path):
    path = tmp_path / "text.safetensors"
    arguments = ["text", "--encoder", folder, "-o", path]
    code, _, err = run(capsys, *arguments)
    assert (code, "give either TEXT or --tags CACHE" in err) == (2, True)
    code, _, err = run(capsys, *arguments, "a", "--tags", path)
    assert code == 2
    code, _, err = run(capsys, *arguments, "a\a")
    assert (code, "U+0007" in err) == (1, True)
    code, _, err = run(capsys, *arguments, "--tags", tmp_path / "no.jsonl")
    assert (code, "no.jsonl: cannot be read" in err) == (1, True)
    cache = save_cache(tmp_path / "empty.jsonl", {})
    code, _, err = run(capsys, *arguments, "--tags", cache)
    assert (code, "contains no photographs" in err) == (1, True)
    arguments[2] = tmp_path / "no"
    code, _, err = run(capsys, *arguments, "a")
    assert (code, "linearsr convert --from gemma2" in err) == (1, True)
    assert not path.exists()
