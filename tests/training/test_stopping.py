"""A stop saves at once, whatever else is due, and the resumed run does the rest."""

import json
import signal

import jax
import pytest

from linearsr_jax.esgf.curve_files import read_curve
from linearsr_jax.esgf.evaluation import Evaluation
from linearsr_jax.training import trainer
from linearsr_jax.training.loop import train_and_evaluate
from linearsr_jax.training.stop_signal import StopSignal
from linearsr_jax.training.trainer import Trainer
from linearsr_jax.training.validation import Validator
from tests.training.test_loop import make_config


class Killed(Exception):
    pass


@pytest.fixture
def config(photos):
    """Four steps, a validation and a checkpoint after the second and the last."""
    config = make_config(photos)
    with config.unlocked():
        config.val.folder, config.val.every = str(photos), 2
        config.val.metrics = ("psnr",)
    return config


@pytest.fixture
def done(monkeypatch):
    """What the run does, in order; its validations cost nothing."""
    done = []

    def note(name):
        real = getattr(Trainer, name)

        def act(self):
            done.append((name, self.step + (name == "take_step")))
            return real(self)

        monkeypatch.setattr(Trainer, name, act)

    for name in ("take_step", "save", "validate"):
        note(name)

    def score(self, experts, weights):
        return (Evaluation("psnr", "bicubic", weights, True, 20.0),), {}

    monkeypatch.setattr(Validator, "__call__", score)
    return done


def step(number):
    return "take_step", number


def stop_at(patch, number):
    patch.setattr(StopSignal, "is_agreed", lambda self, step: step == number)


def validated(workdir):
    return read_curve(workdir).steps.tolist()


def test_a_checkpoint_is_saved_before_the_validation_of_its_step(
    config, done, tmp_path
):
    train_and_evaluate(config, tmp_path)
    assert done == [
        *(step(1), step(2), ("save", 2), ("validate", 2)),
        # The last checkpoint contains the last validation.
        *(step(3), step(4), ("validate", 4), ("save", 4)),
    ]
    done.clear()
    train_and_evaluate(config, tmp_path)
    assert done == []


@pytest.mark.parametrize("stopped", [2, 4])
def test_a_stop_leaves_the_validation_to_the_resumed_run(
    config, done, tmp_path, monkeypatch, stopped
):
    with monkeypatch.context() as patch:
        stop_at(patch, stopped)
        assert not train_and_evaluate(config, tmp_path).is_finished
    assert done[-2:] == [step(stopped), ("save", stopped)]
    done.clear()
    assert train_and_evaluate(config, tmp_path).is_finished
    assert done[0] == ("validate", stopped)
    assert validated(tmp_path) == [2, 4]


def test_a_validation_after_the_checkpoint_is_repeated_and_counts_once(
    config, done, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:

        def kill(self):
            raise Killed

        patch.setattr(Trainer, "write_log", kill)
        with config.unlocked():
            config.log_every = 3
        with pytest.raises(Killed):
            train_and_evaluate(config, tmp_path)
    assert done[-2:] == [("validate", 2), step(3)]
    assert validated(tmp_path) == [2]
    done.clear()
    train_and_evaluate(config, tmp_path)
    assert done[:2] == [("validate", 2), step(3)]
    assert validated(tmp_path) == [2, 4]
    assert sorted(x.name for x in (tmp_path / "candidates").glob("[0-9]")) == ["2", "4"]


def test_a_signal_ends_a_validation_between_two_photographs(
    config, tmp_path, monkeypatch
):
    with config.unlocked():
        config.checkpoint_every = 100
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(
            StopSignal, "has_come", lambda self: asked.append(1) or len(asked) == 2
        )
        assert not train_and_evaluate(config, tmp_path).is_finished
    assert len(asked) == 2
    assert [x.name for x in (tmp_path / "checkpoints").glob("[0-9]")] == ["2"]
    assert train_and_evaluate(config, tmp_path).is_finished
    assert validated(tmp_path) == [2, 4]


@pytest.mark.parametrize("at", [3, 4])  # 4 is the last, which no validation follows.
def test_a_stop_in_a_step_with_trouble_is_not_lost(
    config, done, tmp_path, monkeypatch, at
):
    with config.unlocked():
        config.val.folder = str(config.val.folder) if at == 3 else ""
    real = Trainer.find_trouble

    def find_trouble(self):
        return trainer.Trouble("a test", since=at) if self.step == at else real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "find_trouble", find_trouble)
        stop_at(patch, at)
        assert not train_and_evaluate(config, tmp_path).is_finished
    assert done[-1] == step(at)
    assert not (tmp_path / "model").exists()
    assert train_and_evaluate(config, tmp_path).is_finished
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
        if "loss" in json.loads(line)
    ]
    assert steps == [1, 2, 3, 4]


def test_a_stop_while_the_run_goes_back_is_not_lost(
    config, done, tmp_path, monkeypatch
):
    real, real_rewind = Trainer.find_trouble, Trainer.rewind

    def find_trouble(self):
        return trainer.Trouble("a test", since=3) if self.step == 3 else real(self)

    def rewind(self, trouble):
        signal.raise_signal(signal.SIGTERM)
        real_rewind(self, trouble)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "find_trouble", find_trouble)
        patch.setattr(Trainer, "rewind", rewind)
        assert not train_and_evaluate(config, tmp_path).is_finished
    assert done[-1] == step(3)
    assert train_and_evaluate(config, tmp_path).is_finished
    assert validated(tmp_path) == [2, 4]


def test_two_steps_at_most_are_ahead_of_the_devices(photos, tmp_path, monkeypatch):
    config = make_config(photos)
    with config.unlocked():
        config.log_every = config.checkpoint_every = 100
    waited, real = [], jax.block_until_ready

    def wait(value):
        if isinstance(value, trainer.TrainMetrics):
            waited.append(float(value.loss.count))
        return real(value)

    monkeypatch.setattr(jax, "block_until_ready", wait)
    train_and_evaluate(config, tmp_path)
    # Before the third step for the first, before the fourth for the second.
    assert len(waited) == 2
