"""The loop: what a killed and resumed run must repeat bit for bit."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import debug
from linearsr_jax.data import pipeline
from linearsr_jax.pretrained import model_folder
from linearsr_jax.training import trainer
from linearsr_jax.training.expert_axis import split
from linearsr_jax.training.loop import train_and_evaluate
from linearsr_jax.training.optimizers import ema_params
from linearsr_jax.training.record import TrainError
from linearsr_jax.training.stop_signal import StopSignal
from linearsr_jax.training.validation import Validator
from linearsr_jax.training.writers import LogWriter
from tests.runs_testing import cut_back


def make_config(photos, **overrides) -> ConfigDict:
    config = debug.get_config()
    config.steps = 4
    config.log_every = 1
    config.checkpoint_every = 2
    config.optimizer.decay_steps = 1
    config.mesh.fsdp = 2
    config.val.crop_size = 32
    config.data.folder = str(photos)
    for name, value in overrides.items():
        config[name] = value
    return config.lock()


class Crash(Exception):
    pass


class CrashingWriter(LogWriter):
    def write_scalars(self, step, scalars):
        if step == 3:
            raise Crash


@pytest.fixture(scope="module")
def whole_run(photos, tmp_path_factory):
    """A run without disturbance; it alone validates, which changes no bits."""
    workdir = tmp_path_factory.mktemp("whole")
    config = make_config(photos)
    config.val.folder = str(photos)
    config.val.every = 2
    config.val.metrics = ("lpips", "lr_psnr")
    return workdir, train_and_evaluate(config, workdir).state


def only(config, **weights):
    config.data.degradations = dict.fromkeys(config.data.degradations, 0.0) | weights


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_killed_and_resumed_equals_undisturbed(
    photos, whole_run, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "make_writer", lambda *_, **__: CrashingWriter())
        with pytest.raises(Crash):
            train_and_evaluate(make_config(photos), tmp_path)
    state = train_and_evaluate(make_config(photos), tmp_path).state
    # Parameters, Adam's moments, EMA, step: the random streams and the next batch
    # are functions of the step (next test), so nothing else is carried.
    assert_same_bits(state, whole_run[1])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [3, 4]


@pytest.mark.slow
def test_resume_repeats_the_degradations_of_the_device(photos, tmp_path):
    config = make_config(photos)
    only(config, standard=1.0)
    config.data.degrade_on = "device"
    whole = train_and_evaluate(config, tmp_path).state
    card = (tmp_path / "model" / "README.md").read_text()
    cut_back(tmp_path, 2)
    assert_same_bits(train_and_evaluate(config, tmp_path).state, whole)
    assert "degraded by 100% standard" in card


def test_next_batch_after_resume_is_the_next_batch(photos):
    config = pipeline.PipelineConfig(crop_size=32)
    source = pipeline.open_source(photos, config)
    whole = pipeline.make_dataset(source, config, seed=0, batch_size=4)
    resumed = pipeline.make_dataset(source, config, seed=0, batch_size=4, start_batch=2)
    assert_same_bits(whole[2], resumed[0])


def test_rejected_files_are_named_and_kept_out(whole_run):
    workdir, _ = whole_run
    config = json.loads((workdir / "model" / "config.json").read_text())
    assert config["training"]["files"] == ["0.png", "1.png", "2.png"]


def test_finished_run_leaves_a_loadable_model(whole_run):
    workdir, state = whole_run
    model = model_folder.load_pretrained(workdir / "model")
    assert model.preset.width == 32
    average = ema_params(state.opt_state)
    assert_same_bits(model.experts, split(average))


def test_validation_is_logged_and_kept(whole_run):
    workdir, _ = whole_run
    log = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    scores = [row for row in log if "val_gain_bicubic" in row]
    assert [row["step"] for row in scores] == [2, 4]
    # The head starts at zero and has hardly moved: this is bicubic still.
    assert abs(scores[-1]["val_gain_bicubic"]) < 0.2
    # Bicubic, made small again, is nearly what the model was given.
    assert scores[-1]["val_lr_psnr_bicubic"] > scores[-1]["val_psnr_bicubic"]
    config = json.loads((workdir / "model" / "config.json").read_text())
    evaluation = config["training"]["evaluation"]
    assert evaluation == {name: scores[-1][name] for name in evaluation}
    assert "val_lpips_bicubic_raw" in evaluation
    # The metrics that the config names, of the averaged weights, vote on the knee.
    assert set(scores[-1]["voters"]) == {
        f"val_{metric}_{degradation}"
        for metric in ("lpips", "lr_psnr")
        for degradation in ("bicubic", "light", "standard", "camera")
    }
    assert scores[-1]["higher_is_better"]["val_lpips_bicubic"] is False


def test_the_average_lies_between_start_and_end(whole_run):
    """Seen where the start is known: the head's kernel begins at zero."""
    _, state = whole_run
    average = np.asarray(ema_params(state.opt_state)["head"]["kernel"])
    last = np.asarray(state.params["head"]["kernel"])
    # After update n the average goes 9 / (10 + n) of the way to the parameters. Adam's
    # steps are about the learning rate, here 0, 0.5, 1 and 1: that makes 0.81.
    moved = np.abs(last) > 0.5 * np.abs(last).max()
    share = np.median(average[moved] / last[moved])
    assert share == pytest.approx(0.81, abs=0.08)


def test_workdir_of_another_config_is_refused(photos, whole_run):
    workdir, _ = whole_run
    with pytest.raises(TrainError, match="contains a run with seed=0, not 1"):
        train_and_evaluate(make_config(photos, seed=1), workdir)


def test_stop_signal_saves_and_a_second_run_goes_on(
    photos, whole_run, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "requested", True)
        stopped = train_and_evaluate(make_config(photos), tmp_path)
    assert not stopped.is_finished
    assert stopped.state.step == 1
    assert not (tmp_path / "model").exists()
    result = train_and_evaluate(make_config(photos), tmp_path)
    assert result.is_finished
    assert_same_bits(result.state, whole_run[1])


def test_a_signal_during_validation_is_not_lost(photos, tmp_path, monkeypatch):
    """It comes after the loop has asked, at a step that saves nothing."""
    config = make_config(photos)
    with config.unlocked():
        config.val.folder, config.val.every = str(photos), 1
        config.val.metrics = ("psnr",)
        config.checkpoint_every = 100
    stops = []
    real = StopSignal.__enter__
    monkeypatch.setattr(
        StopSignal, "__enter__", lambda self: (stops.append(self), real(self))[1]
    )

    def validate(self, experts, weights):
        stops[0].requested = True
        return (), {}

    monkeypatch.setattr(Validator, "__call__", validate)
    state = train_and_evaluate(config, tmp_path).state
    assert state.step == 2
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_a_signal_at_the_last_step_loses_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(StopSignal, "is_agreed", lambda self, step: step == 4)
    assert train_and_evaluate(make_config(photos), tmp_path).is_finished
    assert model_folder.load_pretrained(tmp_path / "model").training["step"] == 4
    with pytest.raises(model_folder.PretrainedError, match=r"use its model, .*model"):
        model_folder.load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("log_every", 0, "log_every must be at least 1"),
        ("accumulation", 2, "batch_size 8 must be a multiple of accumulation 2 times"),
        ("dtype", "float16", "float16 overflows"),
        ("preset", "giant", "unknown preset 'giant'"),
        ("steps", 2, "steps 2 must be at least"),
        ("remat", "all", "remat 'all' must be one of none, dots, blocks"),
        ("accumulation", 3, "batch_size 8 must be a multiple of accumulation 3"),
    ],
)
def test_unusable_configs(photos, tmp_path, field, value, message):
    config = make_config(photos, **{field: value})
    with pytest.raises((TrainError, ValueError), match=message):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("degradations", {"heavy": 1.0}, "'heavy'; use one of bicubic, light"),
        ("degrade_on", "gpu", "'host' or 'device', got 'gpu'"),
    ],
)
def test_unusable_data_configs(photos, tmp_path, field, value, message):
    config = make_config(photos)
    config.data[field] = value
    with pytest.raises(ValueError, match=message):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_must_be_named(tmp_path):
    with pytest.raises(TrainError, match=r"data\.folder is not set"):
        train_and_evaluate(make_config(""), tmp_path / "run")


def test_empty_folder_is_an_error(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="photos"):
        train_and_evaluate(make_config(tmp_path / "photos"), tmp_path / "run")


def test_photographs_held_out_cannot_be_trained_on_later(photos, tmp_path):
    config = make_config(photos)
    with config.unlocked():
        config.val.holdout, config.val.folder = 0.5, str(photos)
    with pytest.raises(TrainError, match=r"val\.folder and val\.holdout: set one"):
        train_and_evaluate(config, tmp_path / "run")
