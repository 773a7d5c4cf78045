"""SANA's weights from both layouts: every tensor arrives, once."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from linearsr_jax.cli.main import main
from linearsr_jax.convert import dc_ae, sana_names
from linearsr_jax.convert.safetensors_stream import ConvertError, SourceTensor
from linearsr_jax.convert.sana import convert
from linearsr_jax.models.parameter_shapes import parameter_shapes
from linearsr_jax.models.presets import PRESETS, get_preset, sana_preset
from linearsr_jax.pretrained.model_folder import load_pretrained
from tests.convert.sana_layouts import WEIGHTS, save_shards, to_official
from tests.parity.test_dc_ae import CONFIG as GOLDEN_DC_AE
from tests.sana_testing import (
    GOLDEN,
    golden_weights,
    save_diffusers,
)


@pytest.fixture(scope="module")
def converted(codec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    source = save_diffusers(folder / "source", golden_weights("qk"), "qk")
    count = convert(source, folder / "ours", codec)
    model = load_pretrained(folder / "ours")
    assert count == sum(np.prod(s) for s in parameter_shapes(model.preset).values())
    return folder / "ours"


def assert_same_weights(folder, other):
    a, b = (load_file(path / "model.safetensors") for path in (folder, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_tables_are_bijections_over_the_published_models():
    """With the numbers of tensors that diffusers' modules have."""
    for preset, count in (
        (get_preset("600m"), 548),
        (get_preset("1600m"), 396),
        (get_preset("1600m_qk"), 476),
        (sana_preset(2240, 60, 20, qk_norm=True), 1396),
    ):
        layouts = []
        for official in (False, True):
            layers = [sana_names._OUTSIDE] + [
                sana_names.placed(
                    "blocks", f"transformer_blocks.{layer}", f"blocks.{layer}", rows
                )
                for layer in range(preset.depth)
                for rows in [
                    sana_names._BLOCK + sana_names._QK_NORM * preset.qk_norm,
                ]
            ]
            rows = [row for listed in layers for row in listed]
            names = [n for row in rows for n in row.part(is_official=official).theirs]
            assert len(set(names)) == len(names)
            layouts.append(names)
            matched = sana_names.match_sources(set(names), preset)
            ours = {n for n in parameter_shapes(preset) if not n.startswith("stem.")}
            assert set(matched) == ours
            for name, parts in matched.items():
                stacked = name.startswith("blocks.")
                assert len(parts) == (preset.depth if stacked else 1)
        assert len(layouts[0]) == count


def test_the_golden_files_names_are_diffusers_own(converted):
    """They are its state dict's: all are used, so the table has no name too many."""
    shapes = parameter_shapes(load_pretrained(converted).preset)
    weights = golden_weights("qk")
    stem = sum(np.prod(s) for n, s in shapes.items() if n.startswith("stem."))
    columns = np.prod(shapes["patch_embed.kernel"]) - 4 * 32
    total = sum(np.prod(s) for s in shapes.values())
    assert total - stem - columns == sum(x.size for x in weights.values())


def test_values_land_where_they_belong(converted):
    weights, ours = golden_weights("qk"), load_file(converted / "model.safetensors")
    block = "transformer_blocks.1"
    for actual, expected in (
        (
            ours["blocks.attention.qkv.kernel"][1, 3, 32 + 5],
            f"{block}.attn1.to_k.weight",
        ),
        (
            ours["blocks.cross_attention.kv.kernel"][1, 3, 5],
            f"{block}.attn2.to_k.weight",
        ),
        (ours["blocks.ffn.expand.kernel"][1, 3, 5], f"{block}.ff.conv_inverted.weight"),
        (ours["patch_embed.kernel"][3, 5], "patch_embed.proj.weight"),
    ):
        assert actual == np.ravel(weights[expected][5, 3])
    depthwise = weights[f"{block}.ff.conv_depth.weight"]
    assert ours["blocks.ffn.kernel"][1, 0, 2, 7] == depthwise[7, 0, 0, 2]


def test_the_lr_image_changes_nothing_yet(converted):
    ours = load_file(converted / "model.safetensors")
    assert np.all(ours["patch_embed.kernel"][4:] == 0)
    assert np.all(ours["patch_embed.kernel"][:4] != 0)
    # LeCun normal: the stem is there to be trained.
    kernel = ours["stem.kernel_1"]
    fan_in = np.prod(kernel.shape[:3])
    assert np.std(kernel) == pytest.approx(fan_in**-0.5, rel=0.02)


def test_both_layouts_give_the_same_bits(converted, codec, official_sizes, tmp_path):
    official = to_official(golden_weights("qk"))
    save_file(official, tmp_path / "official.safetensors")
    convert(tmp_path / "official.safetensors", tmp_path / "to", codec)
    assert_same_weights(converted, tmp_path / "to")
    model = load_pretrained(tmp_path / "to")
    null = official["y_embedder.y_embedding"]
    np.testing.assert_array_equal(model.null_condition, null)
    assert load_pretrained(converted).null_condition is None
    with (tmp_path / "to" / "null_condition.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(Exception, match="does not match SHA256SUMS"):
        load_pretrained(tmp_path / "to")


def test_official_pickles(converted, codec, official_sizes, tmp_path):
    torch = pytest.importorskip("torch", reason="extra `parity` is not installed")
    official = to_official(golden_weights("qk"))
    tensors = {name: torch.from_numpy(value) for name, value in official.items()}
    torch.save({"state_dict": tensors, "epoch": 1}, tmp_path / "official.pth")
    convert(tmp_path / "official.pth", tmp_path / "to", codec)
    assert_same_weights(converted, tmp_path / "to")


def test_shards_in_a_pipelines_folder(converted, codec, tmp_path):
    (tmp_path / "pipeline").mkdir()
    save_shards(tmp_path / "pipeline" / "transformer", golden_weights("qk"))
    (tmp_path / "pipeline" / "vae").symlink_to(codec, target_is_directory=True)
    convert(tmp_path / "pipeline", tmp_path / "to")
    assert_same_weights(converted, tmp_path / "to")
    sources = load_pretrained(tmp_path / "to").training["converted_from"]
    assert len(sources) == 2
    assert set(map(len, sources.values())) == {64}


def test_a_pipelines_own_autoencoder(tmp_path, monkeypatch):
    """Real names of diffusers' AutoencoderDC, at small width."""
    save_diffusers(tmp_path / "pipeline" / "transformer", golden_weights())
    golden = load_file(GOLDEN.parent / "dc_ae.safetensors")
    weights = {
        name.removeprefix("weights."): value
        for name, value in golden.items()
        if name.startswith("weights.")
    }
    (tmp_path / "pipeline" / "vae").mkdir()
    save_file(weights, tmp_path / "pipeline" / "vae" / WEIGHTS)
    monkeypatch.setattr(dc_ae, "DcAeConfig", lambda: GOLDEN_DC_AE)
    convert(tmp_path / "pipeline", tmp_path / "to")
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert names == {
        "README.md",
        "SHA256SUMS",
        "codec.safetensors",
        "config.json",
        "model.safetensors",
    }
    codec = load_pretrained(tmp_path / "to").codec
    bias = codec.params["decoder"]["conv_out"]["bias"]
    np.testing.assert_array_equal(bias, weights["decoder.conv_out.bias"])


def test_bfloat16_sources_of_another_precision(codec, tmp_path):
    import jax.numpy as jnp
    from safetensors.flax import save_file as save_jax

    weights = golden_weights()
    rounded = {name: jnp.asarray(x, jnp.bfloat16) for name, x in weights.items()}
    source = save_diffusers(tmp_path / "source", weights)
    (source / WEIGHTS).unlink()
    save_jax(rounded, source / "diffusion_pytorch_model.bf16.safetensors")
    convert(source, tmp_path / "to", codec)
    head = load_file(tmp_path / "to" / "model.safetensors")["head.bias"]
    np.testing.assert_array_equal(head, np.float32(rounded["proj_out.bias"]))
    save_file(weights, source / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(ConvertError, match=r"bf16.*fp16.*give one of these files"):
        convert(source, tmp_path / "again", codec)


def published_config(name):
    """Fields of the published config.json that are not the class' defaults."""
    fields = {"_class_name": "SanaTransformer2DModel"}
    if name == "600m":
        fields |= {
            "num_attention_heads": 36,
            "num_layers": 28,
            "num_cross_attention_heads": 16,
            "cross_attention_head_dim": 72,
            "cross_attention_dim": 1152,
        }
    if name == "1600m_qk":
        fields["qk_norm"] = "rms_norm_across_heads"
    return fields


def official_tensors(preset, side=32, position=None):
    """As many as tell the sizes, without their values."""
    width = preset.width
    shapes = {
        "x_embedder.proj.weight": (width, 32, 1, 1),
        "y_embedder.y_proj.fc1.weight": (width, 2304),
    }
    for layer in range(preset.depth):
        expanded = (width, int(2.5 * width), 1, 1)
        shapes[f"blocks.{layer}.mlp.point_conv.conv.weight"] = expanded
        if preset.qk_norm:
            shapes[f"blocks.{layer}.attn.q_norm.weight"] = (width,)
    tensors = {name: SourceTensor(shape, None) for name, shape in shapes.items()}
    if position is None:
        position = np.zeros((1, side**2, 4), np.float32)
    tensors["pos_embed"] = SourceTensor(position.shape, lambda: position)
    return tensors


@pytest.mark.parametrize("name", ["600m", "1600m", "1600m_qk"])
def test_published_models_are_presets(name):
    """So that training and fine-tuning start from them by the preset's name."""
    preset = PRESETS[name]
    assert sana_names.preset_of_config(published_config(name)) == preset
    assert sana_names.preset_of_shapes(official_tensors(preset)) == preset


@pytest.mark.parametrize(("side", "scale", "shift"), [(64, 1.0, 3.0), (128, 2.0, 6.0)])
def test_2k_and_4k_models_have_a_position(side, scale, shift):
    fields = published_config("1600m")
    fields |= {"sample_size": side, "interpolation_scale": scale}
    of_config = sana_names.preset_of_config(fields)
    assert (of_config.position_extent, of_config.sampling_shift) == (64.0, shift)
    embedding = np.zeros((1, side**2, 4), np.float32)
    # NVlabs' buffer: sines of x and then cosines, and y's; of the second token x = 1.
    embedding[0, 1] = np.sin(1 / scale), np.cos(1 / scale), 0.0, 1.0
    tensors = official_tensors(of_config, position=embedding)
    assert sana_names.preset_of_shapes(tensors) == of_config
    tensors = official_tensors(of_config, position=embedding[:, :4096] * 0.9)
    with pytest.raises(ConvertError, match="pos_embed"):
        sana_names.preset_of_shapes(tensors)


def test_commands(codec, tmp_path, capsys):
    """From diffusers' folder to an image; it is noise, but finite and of the size."""
    source = save_diffusers(tmp_path / "source", golden_weights())
    to = str(tmp_path / "to")
    command = ["convert", "--from", "sana", str(source), "--to", to]
    assert main(command) == 1
    assert "give SANA's DC-AE with --codec" in capsys.readouterr().err
    assert main([*command, "--codec", str(codec)]) == 0
    shapes = parameter_shapes(load_pretrained(to).preset)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    assert f"{to}: {count} parameters" in capsys.readouterr().out
    Image.new("RGB", (9, 7), "gray").save(tmp_path / "lr.png")
    hr = tmp_path / "hr.png"
    command = ["upscale", str(tmp_path / "lr.png"), "-o", str(hr), "--model", to]
    assert main([*command, "--steps", "3"]) == 0
    with Image.open(hr) as image:
        assert image.size == (36, 28)
        assert np.std(np.asarray(image)) > 0
    assert main(["info", "--model", to]) == 0
    command = ["convert", "--from", "dc-ae", str(source), "--to", "x", "--codec", to]
    assert main(command) == 2
    assert "--codec goes with --from sana" in capsys.readouterr().err
