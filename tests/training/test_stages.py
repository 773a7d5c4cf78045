"""All three stages, cut off in each, with the bits of an undisturbed run."""

import json
import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from linearsr_jax.config.loading import ConfigError, load_stages
from linearsr_jax.pretrained import model_folder
from linearsr_jax.training import stages
from linearsr_jax.training.esgf_policy import Selection
from linearsr_jax.training.loop import TrainResult
from linearsr_jax.training.record import BadFieldError, TrainError
from tests.runs_testing import cut_back

NAMES = ("pretrain", "experts", "sft")
SAMPLE = Path(__file__).parents[2] / "docs" / "images" / "sample.png"
OVERRIDES = [
    "steps=4",
    "batch_size=8",
    "log_every=1",
    "checkpoint_every=2",
    "data.crop_size=32",
    "data.cache_gb=0.1",
    "val.crop_size=64",
    "val.every=2",
    "val.metrics=('psnr',)",
    "optimizer.warmup_steps=1",
    "sft.optimizer.decay_steps=2",
    "scan_unroll=1",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The bundled photograph, twice."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("a", "b"):
        shutil.copy(SAMPLE, folder / f"{name}.png")
    return folder


def load(photos, *overrides):
    specs = [f"configs/{name}.py:debug" for name in NAMES]
    folders = [f"data.folder={photos}", f"val.folder={photos}"]
    return load_stages(specs, [*folders, *OVERRIDES, *overrides])


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert stages.run_stages(load(photos), workdir)
    return workdir


def load_experts(workdir):
    return [
        model_folder.load_pretrained(workdir / name / "model").experts for name in NAMES
    ]


@pytest.mark.slow
def test_cut_off_in_each_stage_it_ends_with_the_same_bits(
    photos, whole, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    workdir = shutil.copytree(whole, tmp_path / "run")
    (workdir / "stages.json").unlink()
    for name in NAMES:
        cut_back(workdir / name, 2)
    assert stages.run_stages(load(photos), workdir)
    for name in NAMES:
        assert f"resumed from step 2 of {workdir / name}" in caplog.text
    jax.tree.map(
        np.testing.assert_array_equal, load_experts(workdir), load_experts(whole)
    )


def test_each_stage_starts_from_the_one_before(photos, whole):
    recorded = json.loads((whole / "stages.json").read_text())
    assert [stage["name"] for stage in recorded] == list(NAMES)
    assert [stage["init_from"] for stage in recorded] == ["", "pretrain", "experts"]
    assert [stage["esgf"]["step"] for stage in recorded] == [4, 4, 4]
    pretrain, experts, sft = (
        model_folder.load_pretrained(whole / name / "model") for name in NAMES
    )
    assert [len(model.experts) for model in (pretrain, experts, sft)] == [1, 4, 4]
    assert experts.boundaries == (0.223, 0.875, 0.939)
    # The chain is in the last model, and its card tells it.
    origin = sft.training["origin"]
    assert origin["esgf"]["step"] == 4
    assert origin["origin"]["expert_boundaries"] == []
    card = (whole / "sft" / "model" / "README.md").read_text()
    assert "4 experts, split at 0.223, 0.875 and 0.939" in card
    assert card.count("no knee found") == 3
    # Nobody is interested in the folders it was trained in.
    assert str(whole) not in json.dumps(sft.training)


def test_finished_stages_are_not_opened_again(photos, whole, monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(stages, "train_and_evaluate", fail)
    assert stages.run_stages(load(photos), whole)
    # Another host may have the same photographs in another place.
    configs = load(photos)
    for config in configs.values():
        with config.unlocked():
            config.data.folder = f"{photos}/."
    assert stages.run_stages(configs, whole)


def test_another_start_means_training_again(photos, whole, monkeypatch):
    trained = []
    selection = Selection(step=2, trained_to=2)

    def note(config, workdir):
        trained.append((workdir.name, Path(config.init_from).parent.name))
        return TrainResult(None, selection)

    monkeypatch.setattr(stages, "train_and_evaluate", note)
    monkeypatch.setattr(stages, "_write", lambda *_: None)
    stages.run_stages(load(photos, "experts.val.every=1"), whole)
    assert trained == [("experts", "pretrain"), ("sft", "experts")]


def test_a_signal_ends_it_and_the_rest_is_left(photos, tmp_path, monkeypatch):
    unfinished = TrainResult(None, None)
    monkeypatch.setattr(stages, "train_and_evaluate", lambda *_: unfinished)
    assert not stages.run_stages(load(photos), tmp_path)
    assert not (tmp_path / "stages.json").exists()


def test_a_later_stage_has_no_start_of_its_own(photos, tmp_path):
    with pytest.raises(TrainError, match=r"sft\.init_from: must be empty"):
        stages.run_stages(load(photos, "sft.init_from=nano"), tmp_path)


def test_a_bad_field_of_the_last_stage_shows_before_the_first(
    photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(stages, "train_and_evaluate", lambda *_: pytest.fail("trains"))
    with pytest.raises(BadFieldError, match="batch_size must be at least 1"):
        stages.run_stages(load(photos, "sft.batch_size=0"), tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{", "[1]", "[{}]", '[{"name": "sft"}]'])
def test_a_damaged_record(photos, tmp_path, text):
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(TrainError, match=r"stages\.json: is damaged; delete it"):
        stages.run_stages(load(photos), tmp_path)


def test_two_configs_of_one_name():
    with pytest.raises(ConfigError, match="two files have the same name"):
        load_stages(["configs/sft.py:debug", "configs/sft.py:nano"])


def test_overrides_of_one_stage():
    loaded = load_stages(
        ["configs/pretrain.py:debug", "configs/sft.py:debug"],
        ["steps=7", "sft.seed=3", "sft.optimizer.decay_steps=1"],
    )
    assert [config.steps for config in loaded.values()] == [7, 7]
    assert [config.seed for config in loaded.values()] == [0, 3]
    with pytest.raises(ConfigError, match=r"stage sft: --override seeed=3: no such"):
        load_stages(["configs/sft.py:debug"], ["sft.seeed=3"])
