"""tokenizer.json by the package tokenizers; a small one with Gemma's space."""

import json

import pytest

from linearsr_jax.text_encoder.base import TextError
from linearsr_jax.text_encoder.instruction import select_tokens
from linearsr_jax.text_encoder.tokenizer import load_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="extra `text` is not installed")

WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz,:", "▁", "▁r"]


@pytest.fixture
def path(tmp_path):
    """A space joins the word that follows, where it begins with r."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {word: i for i, word in enumerate(WORDS)}, [("▁", "r")], unk_token="<unk>"
        )
    )
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    # What the file may ask for, and SANA's way does not.
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def words(ids):
    return [WORDS[i] for i in ids]


def test_ids(path):
    tokenize = load_tokenizer(path, len(WORDS))
    found = words(tokenize("rose, a rib"))
    assert found == [*"rose,", "▁", "a", "▁r", "i", "b"]
    assert tokenize("") == []


def test_the_instructions_space_joins_the_text(path):
    """Why two tokens less are padded: specs/TEXT.md section 2."""
    tokenize = load_tokenizer(path, len(WORDS))
    alone = len(tokenize("go: ")) + 1
    for text, kept in (("rose", ["▁r", "o", "s", "e"]), ("", ["▁"])):
        ids = [2, *tokenize("go: " + text)]
        selected, _ = select_tokens(len(ids), alone)
        assert words(ids[i] for i in selected) == ["<bos>", *kept]


def test_unusable_files(path):
    with pytest.raises(TextError, match="has the token 33, and the weights know 33"):
        load_tokenizer(path, len(WORDS) - 1)
    description = json.loads(path.read_text())
    for text in ("", "{}", json.dumps(description)[:-9], "[1]"):
        path.write_text(text)
        with pytest.raises(TextError, match=r"tokenizer\.json: cannot be read"):
            load_tokenizer(path, len(WORDS))
    path.unlink()
    with pytest.raises(TextError, match=r"tokenizer\.json: cannot be read"):
        load_tokenizer(path, len(WORDS))
