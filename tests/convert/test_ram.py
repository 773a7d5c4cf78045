"""RAM's weights: every tensor once, older names, what is dropped, damage named."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linearsr_jax.cli.main import main
from linearsr_jax.convert.ram import convert, match_sources, tensor_parts
from linearsr_jax.convert.safetensors_stream import ConvertError, SourceTensor
from linearsr_jax.tagging import TaggerError, load_tagger
from linearsr_jax.tagging.ram import RamTagger
from linearsr_jax.tagging.ram_network import RamConfig, parameter_shapes
from linearsr_jax.tagging.swin import SwinConfig
from linearsr_jax.tagging.vocabulary import TAGS

TINY = RamConfig(
    trunk=SwinConfig(
        image_size=8, patch=2, width=4, depths=(1, 2), heads=(1, 2), window=2
    ),
    tags=5,
    embedding=6,
    width=8,
    heads=2,
    hidden=12,
    layers=1,
)


def ram_shapes(config, old=False):
    """The checkpoint's tensors, written down on their own from specs/RAM.md."""
    shapes = {}

    def linear(name, out, channels):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, channels), (out,)

    def norm(name, channels):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    trunk = config.trunk
    first = "visual_encoder.patch_embed"
    shapes[f"{first}.proj.weight"] = (trunk.width, 3, trunk.patch, trunk.patch)
    shapes[f"{first}.proj.bias"] = (trunk.width,)
    norm(f"{first}.norm", trunk.width)
    for i, depth in enumerate(trunk.depths):
        c = trunk.width * 2**i
        for j in range(depth):
            block = f"visual_encoder.layers.{i}.blocks.{j}"
            table = (2 * trunk.window - 1) ** 2, trunk.heads[i]
            shapes[f"{block}.attn.relative_position_bias_table"] = table
            linear(f"{block}.attn.qkv", 3 * c, c)
            linear(f"{block}.attn.proj", c, c)
            linear(f"{block}.mlp.fc1", 4 * c, c)
            linear(f"{block}.mlp.fc2", c, 4 * c)
            norm(f"{block}.norm1", c)
            norm(f"{block}.norm2", c)
        if i + 1 < len(trunk.depths):
            down = f"visual_encoder.layers.{i}.downsample"
            norm(f"{down}.norm", 4 * c)
            shapes[f"{down}.reduction.weight"] = (2 * c, 4 * c)
    norm("visual_encoder.norm", trunk.width * 2 ** (len(trunk.depths) - 1))
    linear("image_proj", config.embedding, trunk.width * 2 ** (len(trunk.depths) - 1))
    shapes["label_embed"] = (config.tags, config.embedding)
    linear("wordvec_proj", config.width, config.embedding)
    linear("fc", 1, config.width)
    for i in range(config.layers):
        layer = f"{'vision_multi' if old else 'tagging_head'}.encoder.layer.{i}"
        cross = f"{layer}.crossattention"
        linear(f"{cross}.self.query", config.width, config.width)
        linear(f"{cross}.self.key", config.width, config.embedding)
        linear(f"{cross}.self.value", config.width, config.embedding)
        linear(f"{cross}.output.dense", config.width, config.width)
        norm(f"{cross}.output.LayerNorm", config.width)
        linear(f"{layer}.intermediate.dense", config.hidden, config.width)
        linear(f"{layer}.output.dense", config.width, config.hidden)
        norm(f"{layer}.output.LayerNorm", config.width)
    return shapes


EXTRAS = {
    "visual_encoder.layers.0.blocks.0.attn.relative_position_index": (4, 4),
    "visual_encoder.layers.0.blocks.1.attn_mask": (4, 4, 4),
    "tag_encoder.encoder.layer.0.crossattention.self.query.weight": (8, 8),
    "text_decoder.bert.embeddings.word_embeddings.weight": (9, 8),
}


def weights(old=False):
    rng = np.random.default_rng(0)
    shapes = {**ram_shapes(TINY, old), **EXTRAS}
    return {
        name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()
    }


def test_the_real_ones():
    """specs/RAM.md section 3; the head's parameters are counted there on their own."""
    shapes = parameter_shapes(RamConfig())
    counts = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(counts.values()) == 212_117_045
    trunk = sum(n for name, n in counts.items() if name.startswith("trunk."))
    layers = sum(n for name, n in counts.items() if name.startswith("layers_"))
    assert (trunk, layers) == (195_198_516, 13_389_312)
    theirs = ram_shapes(RamConfig())
    assert sum(int(np.prod(shape)) for shape in theirs.values()) == 212_117_045
    parts = tensor_parts(RamConfig())
    assert sorted(name for part in parts.values() for name in part.theirs) == sorted(
        theirs
    )
    assert sorted(parts) == sorted(shapes)
    for ours, ((name,), change) in parts.items():
        changed = change(np.broadcast_to(np.float32(0), theirs[name]))
        assert changed.shape == shapes[ours], ours


@pytest.mark.parametrize("old", [False, True])
def test_converts(tmp_path, old):
    source = weights(old)
    save_file(source, tmp_path / "ram.safetensors")
    count = convert(tmp_path / "ram.safetensors", tmp_path / "ours", TINY)
    found = load_file(tmp_path / "ours" / "tagger.safetensors")
    assert count == sum(array.size for array in found.values())
    np.testing.assert_array_equal(
        found["layers_0.key.kernel"],
        source[
            ("vision_multi" if old else "tagging_head")
            + ".encoder.layer.0.crossattention.self.key.weight"
        ].T,
    )
    np.testing.assert_array_equal(
        found["trunk.patch_conv.kernel"][1, 0, 2],
        source["visual_encoder.patch_embed.proj.weight"][:, 2, 1, 0],
    )
    tagger = load_tagger(f"ram:{tmp_path / 'ours'}")
    assert tagger.name == "ram"
    tagger(np.zeros((5, 7, 3), np.uint8))
    # Caches must not mix up what looked for all tags and what looked for some.
    some = RamTagger.load(tmp_path / "ours", tags=TAGS[:2])
    assert some.version != tagger.version
    assert RamTagger.load(tmp_path / "ours").version == tagger.version


def test_from_a_pickle(tmp_path):
    torch = pytest.importorskip("torch", reason="extra `parity` is not installed")
    tensors = {name: torch.from_numpy(array) for name, array in weights().items()}
    path = tmp_path / "ram.pth"
    # As published: beside the weights, what training would resume from.
    torch.save({"model": tensors, "optimizer": {"state": {}}, "epoch": 3}, path)
    convert(path, tmp_path / "a", TINY)
    save_file(weights(), tmp_path / "ram.safetensors")
    convert(tmp_path / "ram.safetensors", tmp_path / "b", TINY)
    a, b = (load_file(tmp_path / x / "tagger.safetensors") for x in "ab")
    assert all((a[name] == b[name]).all() for name in a | b)


def test_unknown_and_missing_tensors_are_listed():
    shapes = ram_shapes(TINY) | dict.fromkeys(EXTRAS, (4, 4))
    tensors = {name: SourceTensor(shape, np.zeros) for name, shape in shapes.items()}
    match_sources(tensors, TINY)
    tensors["lora.weight"] = tensors.pop("fc.bias")
    with pytest.raises(
        ConvertError, match=r"1 missing: fc\.bias; 1 unknown: lora\.weight"
    ):
        match_sources(tensors, TINY)


@pytest.mark.parametrize(
    "damage",
    [
        {"fc.weight": np.zeros((1, 9), np.float32)},
        {"fc.weight": np.zeros(8, np.float32)},
        {"visual_encoder.patch_embed.proj.weight": np.zeros((4, 12), np.float32)},
    ],
)
def test_wrong_shapes(tmp_path, damage):
    save_file(weights() | damage, tmp_path / "ram.safetensors")
    with pytest.raises(ConvertError, match="shape"):
        convert(tmp_path / "ram.safetensors", tmp_path / "ours", TINY)
    assert not list((tmp_path / "ours").glob("*"))


def test_the_command(tmp_path, capsys):
    code = main(
        ["convert", "--from", "ram", str(tmp_path / "no.pth"), "--to", str(tmp_path)]
    )
    assert code == 1
    assert "no.pth: no such file" in capsys.readouterr().err
    # DC-AE's, say.
    save_file({"decoder.conv_in.bias": np.zeros(3)}, tmp_path / "x.safetensors")
    source = str(tmp_path / "x.safetensors")
    assert main(["convert", "--from", "ram", source, "--to", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "x.safetensors: not RAM Swin-L" in error
    assert "1 unknown: decoder.conv_in.bias" in error


def test_folders_that_are_no_tagger(tmp_path):
    save_file(weights(), tmp_path / "ram.safetensors")
    folder = tmp_path / "ours"

    def fresh():
        convert(tmp_path / "ram.safetensors", folder, TINY)
        return json.loads((folder / "config.json").read_text())

    def refuses(match):
        with pytest.raises(TaggerError, match=match) as caught:
            load_tagger(f"ram:{folder}")
        assert "\n" not in str(caught.value)

    refuses(r"config\.json: No such file")
    fresh()
    (folder / "config.json").write_text("{}")
    refuses(r"config\.json: describes no tagger")
    fresh()
    (folder / "tagger.safetensors").unlink()
    refuses(r"tagger\.safetensors")
    fresh()
    (folder / "tagger.safetensors").write_bytes(b"12345678")
    refuses(r"tagger\.safetensors")
    config = fresh()
    config["tagger"]["name"] = "light"
    (folder / "config.json").write_text(json.dumps(config))
    refuses("'light', not ram")
    config = fresh()
    config["tagger"]["sizes"]["tags"] = 6
    (folder / "config.json").write_text(json.dumps(config))
    refuses("1 tensors of another shape: label_embed")
    config["tagger"]["sizes"]["trunk"]["windows"] = 6
    (folder / "config.json").write_text(json.dumps(config))
    refuses("unusable")
