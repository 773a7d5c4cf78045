"""Features of texts in files: resumed after an interruption, refused elsewhere."""

import pytest

from linearsr_jax.convert.gemma2 import convert
from linearsr_jax.text_encoder import encoder as encoders
from linearsr_jax.text_encoder import files as text_files
from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.encoder import TextEncoder
from tests.gemma2_testing import save_source, tokenize

TAGS = {"b.png": ["zoo", "abacus"], "deep/a.png": [], "c.png": ["yacht"]}
TAGS["a.png"] = TAGS["b.png"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    convert(save_source(tmp_path / "source"), tmp_path / "ours")
    monkeypatch.setattr(encoders, "load_tokenizer", lambda path, size: tokenize)
    return tmp_path / "ours"


def test_equal_texts_are_encoded_once_and_a_stopped_run_goes_on(folder, tmp_path):
    encoder = TextEncoder.load(folder)
    seen, limit = [], 2

    class Counting:
        width, dtype, description = encoder.width, encoder.dtype, encoder.description
        count = staticmethod(encoder.count)

        def __call__(self, text):
            if len(seen) == limit:
                raise KeyboardInterrupt
            seen.append(text)
            return encoder(text)

    path = tmp_path / "features.safetensors"
    with pytest.raises(KeyboardInterrupt):
        text_files.write_features(Counting(), TAGS, path)
    assert seen == ["zoo, abacus", "yacht"]
    assert not path.exists()
    # Of the same number of tokens, but another word.
    with pytest.raises(ValueError, match="was begun with other input"):
        text_files.write_features(Counting(), TAGS | {"c.png": ["yacho"]}, path)
    limit = 9
    text_files.write_features(Counting(), TAGS, path)
    assert seen == ["zoo, abacus", "yacht", "yacht", ""]
    text_files.write_features(encoder, TAGS, tmp_path / "whole.safetensors")
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["a.pth", "no/a.safetensors", "folder.safetensors"])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(TextError, match=name):
        text_files.check_output(tmp_path / name, overwrite=True)
