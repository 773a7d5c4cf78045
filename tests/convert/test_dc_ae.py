"""DC-AE's weights from both layouts: every tensor once, and damage named."""

import builtins

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linearsr_jax.cli.main import main
from linearsr_jax.codecs import load_codec
from linearsr_jax.codecs.dc_ae_network import DcAeConfig, parameter_shapes
from linearsr_jax.convert.dc_ae import convert, match_sources, tensor_rows
from linearsr_jax.convert.safetensors_stream import ConvertError
from linearsr_jax.core.tensor_files import write_tensors

TINY = DcAeConfig(
    widths=(4, 8, 8),
    encoder_depths=(1, 2, 1),
    decoder_depths=(2, 1, 1),
    first_attention=2,
    head_size=4,
    latent_channels=4,
)


def diffusers_shapes(config):
    """The tensors of diffusers' AutoencoderDC, written down on its own."""
    shapes = {}

    def conv(name, out, channels):
        shapes[f"{name}.weight"] = (out, channels, 3, 3)
        shapes[f"{name}.bias"] = (out,)

    def block(name, stage):
        c, k = config.widths[stage], config.head_size
        if stage < config.first_attention:
            conv(f"{name}.conv1", c, c)
            shapes[f"{name}.conv2.weight"] = (c, c, 3, 3)
            shapes[f"{name}.norm.weight"] = shapes[f"{name}.norm.bias"] = (c,)
            return
        for part in "qkv":
            shapes[f"{name}.attn.to_{part}.weight"] = (c, c)
        scale = f"{name}.attn.to_qkv_multiscale.0"
        shapes[f"{scale}.proj_in.weight"] = (3 * c, 1, 5, 5)
        shapes[f"{scale}.proj_out.weight"] = (3 * c, k, 1, 1)
        shapes[f"{name}.attn.to_out.weight"] = (c, 2 * c)
        shapes[f"{name}.attn.norm_out.weight"] = (c,)
        shapes[f"{name}.attn.norm_out.bias"] = (c,)
        shapes[f"{name}.conv_out.conv_inverted.weight"] = (8 * c, c, 1, 1)
        shapes[f"{name}.conv_out.conv_inverted.bias"] = (8 * c,)
        shapes[f"{name}.conv_out.conv_depth.weight"] = (8 * c, 1, 3, 3)
        shapes[f"{name}.conv_out.conv_depth.bias"] = (8 * c,)
        shapes[f"{name}.conv_out.conv_point.weight"] = (c, 4 * c, 1, 1)
        shapes[f"{name}.conv_out.norm.weight"] = (c,)
        shapes[f"{name}.conv_out.norm.bias"] = (c,)

    widths = config.widths
    conv("encoder.conv_in", widths[0], 3)
    conv("encoder.conv_out", config.latent_channels, widths[-1])
    conv("decoder.conv_in", widths[-1], config.latent_channels)
    conv("decoder.conv_out", 3, widths[0])
    shapes["decoder.norm_out.weight"] = shapes["decoder.norm_out.bias"] = (widths[0],)
    for stage, depth in enumerate(config.encoder_depths):
        name = f"encoder.down_blocks.{stage}"
        for index in range(depth):
            block(f"{name}.{index}", stage)
        if stage + 1 < len(widths):
            conv(f"{name}.{depth}.conv", widths[stage + 1], widths[stage])
    for stage, depth in enumerate(config.decoder_depths):
        name = f"decoder.up_blocks.{stage}"
        first = 0
        if stage + 1 < len(widths):
            conv(f"{name}.0.conv", widths[stage], widths[stage + 1])
            first = 1
        for index in range(depth):
            block(f"{name}.{first + index}", stage)
    return shapes


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def to_official(arrays, config):
    """The same weights under the official names; q, k and v are one tensor there."""
    official = {}
    for row in tensor_rows(config):
        if isinstance(row.diffusers, tuple):
            joined = np.concatenate([arrays[name] for name in row.diffusers])
            official[row.official] = joined[:, :, None, None]
        elif row.official.endswith("proj.conv.weight"):
            official[row.official] = arrays[row.diffusers][:, :, None, None]
        else:
            official[row.official] = arrays[row.diffusers]
    return official


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.safetensors"
    save_file(draw(diffusers_shapes(TINY)), path)
    return path


def test_tables_are_bijections_over_the_whole_model():
    """375 tensors in diffusers, 339 officially and here (q, k, v in one)."""
    config = DcAeConfig()
    rows = tensor_rows(config)
    ours = [row.ours for row in rows]
    assert len(set(ours)) == len(ours) == 339
    assert set(ours) == set(parameter_shapes(config))
    diffusers = [
        name
        for row in rows
        for name in (
            [row.diffusers] if isinstance(row.diffusers, str) else row.diffusers
        )
    ]
    assert len(set(diffusers)) == len(diffusers) == 375
    assert set(diffusers) == set(diffusers_shapes(config))
    assert len({row.official for row in rows}) == 339


def test_shapes_of_the_whole_model():
    """Without the numbers: zeros of a stride of zero take no memory."""
    config = DcAeConfig()
    theirs, expected = diffusers_shapes(config), parameter_shapes(config)
    for ours, (names, change) in match_sources(set(theirs), config).items():
        rows = sum(theirs[name][0] for name in names)
        joined = np.broadcast_to(np.float32(0), (rows, *theirs[names[0]][1:]))
        assert change(joined).shape == expected[ours], ours


@pytest.mark.parametrize(
    ("theirs", "official"),
    [
        (
            "encoder.down_blocks.1.2.conv.bias",
            "encoder.stages.1.op_list.2.main.conv.bias",
        ),
        (
            "decoder.up_blocks.0.0.conv.bias",
            "decoder.stages.0.op_list.0.main.conv.conv.bias",
        ),
        (
            "decoder.up_blocks.4.3.attn.norm_out.bias",
            "decoder.stages.4.op_list.3.context_module.main.proj.norm.bias",
        ),
        (
            "encoder.down_blocks.5.0.conv_out.norm.weight",
            "encoder.stages.5.op_list.0.local_module.main.point_conv.norm.weight",
        ),
        ("encoder.conv_out.bias", "encoder.project_out.main.op_list.0.conv.bias"),
        ("decoder.conv_in.bias", "decoder.project_in.main.conv.bias"),
        ("decoder.norm_out.bias", "decoder.project_out.op_list.0.bias"),
    ],
)
def test_names_as_published(theirs, official):
    """Lines of the state dicts of diffusers and of NVlabs/Sana, letter by letter."""
    (row,) = (row for row in tensor_rows(DcAeConfig()) if row.diffusers == theirs)
    assert row.official == official


def test_both_layouts_give_the_same_folder(source, tmp_path):
    count = convert(source, tmp_path / "a", TINY)
    arrays = load_file(source)
    assert count == sum(x.size for x in arrays.values())
    official = tmp_path / "official.safetensors"
    save_file(to_official(arrays, TINY), official)
    convert(official, tmp_path / "b", TINY)
    a, b = (load_file(tmp_path / name / "codec.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    codec = load_codec("dc_ae", tmp_path / "a")
    kernel = codec.params["encoder"]["stages_0"]["block_0"]["conv1"]["kernel"]
    expected = arrays["encoder.down_blocks.0.0.conv1.weight"]
    np.testing.assert_array_equal(kernel[0, 2, 1, 3], expected[3, 1, 0, 2])
    assert not list(tmp_path.rglob("*.part"))


def test_official_pickles(source, tmp_path):
    torch = pytest.importorskip("torch", reason="extra `parity` is not installed")
    arrays = to_official(load_file(source), TINY)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    torch.save({"state_dict": tensors}, tmp_path / "official.pt")
    convert(source, tmp_path / "a", TINY)
    convert(tmp_path / "official.pt", tmp_path / "b", TINY)
    a, b = (load_file(tmp_path / name / "codec.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ConvertError, match=r"evil\.pt: cannot be read weights-only"):
        convert(tmp_path / "evil.pt", tmp_path / "c", TINY)
    assert not (tmp_path / "c").exists()


def test_pickles_without_torch(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    (tmp_path / "model.pt").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(ConvertError, match=r"model\.pt: a pickle.*pip install torch"):
        convert(tmp_path / "model.pt", tmp_path / "to", TINY)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_other_tensors_are_listed(source, tmp_path, change):
    arrays = load_file(source)
    if change == "missing":
        del arrays["decoder.conv_out.bias"]
    else:
        arrays["decoder.conv_out.running_mean"] = np.zeros(3, np.float32)
    save_file(arrays, source)
    with pytest.raises(ConvertError, match=rf"1 {change}: decoder\.conv_out\.\w+$"):
        convert(source, tmp_path / "to", TINY)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("shape", [(4, 3, 3), (3, 4, 3, 3), (4, 3, 5, 5)])
def test_a_tensor_of_another_shape(source, tmp_path, shape):
    arrays = load_file(source)
    arrays["encoder.conv_in.weight"] = np.zeros(shape, np.float32)
    save_file(arrays, source)
    with pytest.raises(ConvertError, match=r"encoder\.conv_in"):
        convert(source, tmp_path / "to", TINY)
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x10" + b"\0" * 30])
def test_unreadable_files(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConvertError, match=r"model\.safetensors: cannot be read"):
        convert(path, tmp_path / "to", TINY)


def test_bfloat16_sources(source, tmp_path):
    import jax.numpy as jnp
    from safetensors.flax import save_file as save_jax

    arrays = load_file(source)
    rounded = {name: jnp.asarray(x, jnp.bfloat16) for name, x in arrays.items()}
    save_jax(rounded, source)
    convert(source, tmp_path / "to", TINY)
    codec = load_codec("dc_ae", tmp_path / "to")
    expected = np.asarray(rounded["encoder.conv_in.bias"], np.float32)
    actual = codec.params["encoder"]["conv_in"]["bias"]
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def read(name):
        if name == "b":
            raise KeyboardInterrupt
        return np.zeros(2, np.float32)

    with pytest.raises(KeyboardInterrupt):
        write_tensors(path, {"a": (2,), "b": (2,)}, read, {})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_is_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = draw({"b": (2, 3), "a": (), "empty": (0, 4)})
    arrays = {name: np.asarray(x) for name, x in arrays.items()}
    shapes = {name: x.shape for name, x in arrays.items()}
    write_tensors(path, shapes, lambda name: arrays[name].T.copy().T, {"source": "x"})
    again = load_file(path)
    assert again.keys() == arrays.keys()
    for name, expected in arrays.items():
        np.testing.assert_array_equal(again[name], expected)


def test_command(tmp_path, capsys):
    """Of another model the command lists what does not fit."""
    save_file(draw(diffusers_shapes(TINY)), tmp_path / "other.safetensors")
    arguments = ["convert", "--from", "dc-ae", str(tmp_path / "other.safetensors")]
    assert main([*arguments, "--to", str(tmp_path / "to")]) == 1
    assert "not a DC-AE f32c32 of SANA" in capsys.readouterr().err
    assert main(["convert", "--from", "dc-ae", str(tmp_path), "--to", "x"]) == 1
    assert "no weights; give" in capsys.readouterr().err
