"""Model folders: what is written is read back, and damage is named."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from linearsr_jax.cli.info import describe
from linearsr_jax.codecs import PixelCodec
from linearsr_jax.core.files import sha256
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained import model_folder
from tests.experts_testing import make_experts


@pytest.fixture
def folder(tmp_path):
    model_folder.save_pretrained(
        tmp_path / "model",
        make_experts(1),
        get_preset("debug"),
        PixelCodec(residual_std=0.25),
        training={"step": 1},
        card="# a card\n",
    )
    return tmp_path / "model"


def rewrite_sums(folder):
    names = ("model.safetensors", "config.json", "README.md")
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_round_trip(folder):
    model = model_folder.load_pretrained(folder)
    assert model.preset == get_preset("debug")
    assert model.codec == PixelCodec(residual_std=0.25)
    jax.tree.map(np.testing.assert_array_equal, model.experts, make_experts(1))


def save_experts(folder, experts, boundaries):
    model_folder.save_pretrained(
        folder,
        experts,
        get_preset("debug"),
        PixelCodec(),
        boundaries=boundaries,
        training={},
        card="",
    )


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    names = [line.split("  ")[1] for line in lines]
    sums = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))


def test_experts_round_trip(tmp_path):
    save_experts(tmp_path, make_experts(3), (0.25, 0.75))
    model = model_folder.load_pretrained(tmp_path)
    assert model.boundaries == (0.25, 0.75)
    expected = make_experts(3)
    jax.tree.map(np.testing.assert_array_equal, model.experts, expected)
    sums = (tmp_path / "SHA256SUMS").read_text()
    for index, found in enumerate(model_folder.weights_sha256(tmp_path)):
        assert f"{found}  model_{index}.safetensors\n" in sums
    described = describe(str(tmp_path))["model"]
    assert described["experts"] == len(described["sha256"]) == 3
    assert described["boundaries"] == (0.25, 0.75)
    assert described["parameters"] == sum(x.size for x in jax.tree.leaves(expected[0]))


def test_every_experts_file_is_a_model_of_its_own(folder, tmp_path):
    save_experts(tmp_path, make_experts(2), (0.5,))
    one, of_two = (
        load_file(path)
        for path in (folder / "model.safetensors", tmp_path / "model_1.safetensors")
    )
    shapes = [{name: x.shape for name, x in arrays.items()} for arrays in (one, of_two)]
    assert shapes[0] == shapes[1]


def test_a_folder_without_boundaries_holds_one_expert(folder):
    """As all did before there were experts; the bundled nano does."""
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("boundaries") == []
    (folder / "config.json").write_text(json.dumps(config))
    rewrite_sums(folder)
    model = model_folder.load_pretrained(folder)
    assert (model.boundaries, len(model.experts)) == ((), 1)


def test_a_folder_with_the_old_name_of_a_field(folder):
    """The bundled nano has it, too."""
    preset = json.loads((folder / "config.json").read_text())["preset"]
    preset["sigma_max"] = preset.pop("unshifted_start") / 2
    change_config(folder, preset=preset)
    assert model_folder.load_pretrained(folder).preset.unshifted_start == 0.5


def test_saving_fewer_experts_leaves_no_file_of_the_others(tmp_path):
    (tmp_path / "model_card.safetensors").touch()
    for boundaries in ((0.2, 0.8), (0.5,), ()):
        expected = make_experts(3)[: len(boundaries) + 1][::-1]
        save_experts(tmp_path, expected, boundaries)
        model = model_folder.load_pretrained(tmp_path)
        jax.tree.map(np.testing.assert_array_equal, model.experts, expected)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == ["model.safetensors", "model_card.safetensors"]


@pytest.mark.parametrize("boundaries", [[], [0.5], [0.2, 0.4, 0.6]])
def test_another_number_of_experts_than_boundaries_separate(tmp_path, boundaries):
    save_experts(tmp_path, make_experts(3), (0.2, 0.8))
    change_config(tmp_path, boundaries=boundaries)
    with pytest.raises(model_folder.PretrainedError, match=r"model_\d\.safetensors"):
        model_folder.load_pretrained(tmp_path)
    with pytest.raises(ValueError, match="separate"):
        save_experts(tmp_path / "other", make_experts(3), boundaries)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "boundaries", [[0.8, 0.2], [0.0, 0.5], [0.5, 1.5], [0.5, float("nan")], 0.5, "ab"]
)
def test_bad_boundaries(tmp_path, boundaries):
    save_experts(tmp_path, make_experts(3), (0.2, 0.8))
    change_config(tmp_path, boundaries=boundaries)
    with pytest.raises(model_folder.PretrainedError, match=r"config\.json: unusable"):
        model_folder.load_pretrained(tmp_path)


def test_a_damaged_expert_is_named(tmp_path):
    save_experts(tmp_path, make_experts(2), (0.5,))
    arrays = load_file(tmp_path / "model_1.safetensors")
    stacked = {name: np.stack([x, x]) for name, x in arrays.items()}
    save_file(stacked, tmp_path / "model_1.safetensors")
    with pytest.raises(model_folder.PretrainedError, match="does not match"):
        model_folder.load_pretrained(tmp_path)
    change_config(tmp_path)
    message = r"model_1\.safetensors: \d+ tensors of another shape"
    with pytest.raises(model_folder.PretrainedError, match=message):
        model_folder.load_pretrained(tmp_path)
    (tmp_path / "model_1.safetensors").unlink()
    with pytest.raises(model_folder.PretrainedError, match="incomplete"):
        model_folder.load_pretrained(tmp_path)


def test_null_condition_round_trip(tmp_path):
    expected = np.arange(48, dtype=np.float32).reshape(3, 16)
    for null_condition in (expected, None):
        model_folder.save_pretrained(
            tmp_path,
            make_experts(1),
            get_preset("debug"),
            PixelCodec(),
            training={},
            card="",
            null_condition=null_condition,
        )
        actual = model_folder.load_pretrained(tmp_path).null_condition
        if null_condition is None:
            assert actual is None
        else:
            np.testing.assert_array_equal(actual, null_condition)
            assert actual.dtype == np.float32
    assert not list(tmp_path.glob("null_condition*"))


@pytest.mark.parametrize("shape", [(3, 15), (16,), (1, 3, 16)])
def test_null_condition_of_another_shape(tmp_path, shape):
    model_folder.save_pretrained(
        tmp_path,
        make_experts(1),
        get_preset("debug"),
        PixelCodec(),
        training={},
        card="",
        null_condition=np.zeros(shape, np.float32),
    )
    with pytest.raises(
        model_folder.PretrainedError, match=r"must contain null_condition"
    ):
        model_folder.load_pretrained(tmp_path)


def test_changed_file_is_noticed(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(model_folder.PretrainedError, match="does not match SHA256SUMS"):
        model_folder.load_pretrained(folder)


@pytest.mark.parametrize("change", ["missing", "unknown", "of another shape"])
def test_tensors_that_do_not_fit_are_listed(folder, change):
    arrays = load_file(folder / "model.safetensors")
    if change == "missing":
        del arrays["head.bias"]
    elif change == "unknown":
        arrays["head.extra"] = np.zeros(3, np.float32)
    else:
        arrays["head.bias"] = np.zeros(3, np.float32)
    save_file(arrays, folder / "model.safetensors")
    rewrite_sums(folder)
    with pytest.raises(model_folder.PretrainedError, match=f"1 tensors {change}: head"):
        model_folder.load_pretrained(folder)


def test_truncated_weights_with_matching_sums(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    rewrite_sums(folder)
    with pytest.raises(model_folder.PretrainedError, match=r"model\.safetensors"):
        model_folder.load_pretrained(folder)


def test_missing_pieces(folder):
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(model_folder.PretrainedError, match="incomplete"):
        model_folder.load_pretrained(folder)
    with pytest.raises(model_folder.PretrainedError, match="no such model"):
        model_folder.load_pretrained("absent")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}'])
def test_unusable_config(folder, text):
    (folder / "config.json").write_text(text)
    rewrite_sums(folder)
    with pytest.raises(model_folder.PretrainedError):
        model_folder.load_pretrained(folder)


def test_bundled_nano_is_whole():
    assert "nano" in model_folder.bundled_models()
    model = model_folder.load_pretrained("nano")
    config = model.training["config"]
    assert config["preset"] == "nano"
    assert model.training["step"] == config["steps"]
    assert json.dumps(model.training["files"]).count("train/") == 0


@pytest.fixture
def slider(tmp_path):
    means, experts = make_experts(2), make_experts(2)
    experts = tuple(jax.tree.map(lambda x: 3 * x + 1, own) for own in experts)
    model_folder.save_pretrained(
        tmp_path / "slider",
        experts,
        get_preset("debug"),
        PixelCodec(),
        boundaries=(0.5,),
        training={},
        card="",
        mean_experts=means,
        default_fidelity=0.75,
        tagger="light",
    )
    return tmp_path / "slider", means, experts


def test_slider_round_trip(slider):
    folder, means, experts = slider
    model = model_folder.load_pretrained(folder)
    assert model.default_fidelity == 0.75
    assert model.tagger == "light"
    same = np.testing.assert_array_equal
    jax.tree.map(same, model.mean_experts, means)
    jax.tree.map(same, model.experts_at(0.0), means)
    jax.tree.map(same, model.experts_at(1.0), experts)
    quarter = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, means, experts)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        model.experts_at(0.25),
        quarter,
    )
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1\.5"):
        model.experts_at(1.5)


def test_half_a_slider_is_named(slider):
    folder, *_ = slider
    (folder / "mean_1.safetensors").unlink()
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    kept = [line for line in lines if "mean_1" not in line]
    (folder / "SHA256SUMS").write_text("".join(kept))
    with pytest.raises(model_folder.PretrainedError, match=r"mean_1\.safetensors"):
        model_folder.load_pretrained(folder)


def test_writing_without_slider_removes_an_older_ones(slider):
    folder, means, _ = slider
    save_experts(folder, means, (0.5,))
    assert not list(folder.glob("mean*"))
    model = model_folder.load_pretrained(folder)
    assert model.mean_experts is None
    with pytest.raises(ValueError, match="no fidelity slider"):
        model.experts_at(0.5)


def test_a_loaded_model_is_saved_whole(tmp_path):
    null_condition = np.arange(48, dtype=np.float32).reshape(3, 16)
    model_folder.save_pretrained(
        tmp_path / "first",
        make_experts(2),
        get_preset("debug"),
        PixelCodec(residual_std=0.25),
        boundaries=(0.5,),
        training={"step": 1},
        card="one",
        null_condition=null_condition,
        mean_experts=make_experts(2)[::-1],
        default_fidelity=0.75,
        tagger="light",
    )
    first = model_folder.load_pretrained(tmp_path / "first")
    model_folder.save_model(tmp_path / "second", first, "two")
    assert (tmp_path / "second/README.md").read_text() == "two"
    for path in (tmp_path / "first").iterdir():
        if path.name not in ("README.md", "SHA256SUMS"):
            assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes()
