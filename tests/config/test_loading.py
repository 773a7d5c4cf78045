"""Config files and overrides."""

import dataclasses

import pytest

from linearsr_jax.config.loading import ConfigError, load_config
from linearsr_jax.models.presets import PRESETS


def test_overrides_and_lock():
    config = load_config(
        "configs/nano.py",
        ["steps=7", "data.folder=my photos", "optimizer.learning_rate=1"],
    )
    assert (config.steps, config.data.folder) == (7, "my photos")
    assert config.optimizer.learning_rate == 1.0
    with pytest.raises(AttributeError):
        config.stepz = 3
    for text in ("2024", "None", "a=b"):  # a folder's name, not Python
        assert (
            load_config("configs/nano.py", [f"data.folder={text}"]).data.folder == text
        )
    with pytest.raises(AttributeError):
        config.stepz = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rat=1", "nearest is optimizer.learning_rate"),
        ("crop_size=64", "nearest is data.crop_size"),
        ("steps=many", "steps is a int"),
        ("steps=None", "steps is a int, as in 'steps="),
        ("data=3", "no such field"),
        ("bogus=1", r"no such field; linearsr_jax/config/defaults\.py lists them"),
        ("steps", "field=value"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("configs/nano.py", [override])


def test_bad_files(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config("configs/absent.py")
    with pytest.raises(
        ConfigError, match="must be one of flow, mean, perceptual, judges"
    ):
        load_config("configs/nano.py:large")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match="no function get_config"):
        load_config(str(tmp_path / "empty.py"))
    (tmp_path / "wrong.py").write_text("import does_not_exist")
    with pytest.raises(ConfigError, match=r"wrong\.py: cannot be run"):
        load_config(str(tmp_path / "wrong.py"))


@pytest.mark.parametrize(("like", "batch"), [("nano", 8), ("1600m", 512)])
def test_a_new_size_needs_no_other_entry(monkeypatch, like, batch):
    new = dataclasses.replace(PRESETS[like], depth=3)
    monkeypatch.setitem(PRESETS, "new", new)
    for file in ("pretrain", "experts", "sft"):
        config = load_config(f"configs/{file}.py:new")
        assert (config.preset, config.batch_size) == ("new", batch)
