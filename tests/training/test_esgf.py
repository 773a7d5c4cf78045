"""The loop's policy: it skips, rewinds, stops at the knee, and hands on the knee."""

import contextlib
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from linearsr_jax.esgf.evaluation import Evaluation
from linearsr_jax.pretrained import model_folder
from linearsr_jax.training import trainer
from linearsr_jax.training.checkpoints import Checkpointer
from linearsr_jax.training.expert_axis import split
from linearsr_jax.training.loop import train_and_evaluate
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.optimizers import ema_params
from linearsr_jax.training.record import Rewind, TrainError
from linearsr_jax.training.stop_signal import StopSignal
from linearsr_jax.training.trainer import Trainer
from linearsr_jax.training.validation import Validator
from tests.runs_testing import cut_back

# In all tests, because the schedule of the compiled step has it.
STEPS = 24


def make_config(photos, **overrides):
    config = debug.get_config()
    config.steps = STEPS
    config.data.folder = str(photos)
    config.data.crop_size = 16
    config.batch_size = 8
    config.log_every = 1
    config.optimizer.warmup_steps = 1
    config.optimizer.descent = "constant"
    config.optimizer.decay_steps = 0
    config.checkpoint_every = 2
    config.update_from_flattened_dict(overrides)
    return config.lock()


@pytest.fixture(scope="module", autouse=True)
def _black_is_nan():
    """In all tests, so that they train with one program."""
    real_loss = Loss.__call__

    def loss(self, params, codec, batch, draws, critic):
        total, aux = real_loss(self, params, codec, batch, draws, critic)
        return total * jnp.where(batch["image_hr"].max() == 0, jnp.nan, 1.0), aux

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loss, "__call__", loss)
        yield


def poison(patch):
    """Makes samples in the first order black from batch 2 on."""
    real_batches = trainer.global_batches

    @contextlib.contextmanager
    def batches(settings, *args, seed, start_batch):
        is_first = seed == settings.seed
        with real_batches(
            settings, *args, seed=seed, start_batch=start_batch
        ) as stream:
            yield (
                jax.tree.map(lambda x, n=n: x * 0 if is_first and n >= 2 else x, batch)
                for n, batch in enumerate(stream, start_batch)
            )

    patch.setattr(trainer, "global_batches", batches)


@pytest.fixture
def poisoned(monkeypatch):
    poison(monkeypatch)


@pytest.fixture(scope="module")
def rewound(photos, tmp_path_factory):
    """A run that goes back once, and the workdir it left."""
    workdir = tmp_path_factory.mktemp("rewound") / "run"
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        config = make_config(photos, keep_checkpoints=STEPS)
        return workdir, train_and_evaluate(config, workdir)


def read_log(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_three_steps_that_are_not_finite_rewind(rewound):
    workdir, result = rewound
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.state.params))
    with contextlib.closing(Checkpointer(workdir / "checkpoints", keep=STEPS)) as kept:
        rewinds = kept.restore_record(STEPS).rewinds
    reason = "3 steps in a row were not finite"
    assert rewinds == (Rewind(step=5, to=4, reason=reason),)
    training = model_folder.load_pretrained(workdir / "model").training
    assert training["rewinds"] == [{"step": 5, "to": 4, "reason": reason}]
    log = read_log(workdir)
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))
    assert [row["skipped"] for row in log] == [0, 0, 1, 1] + [0] * (STEPS - 4)
    # A skipped step has nothing else to say.
    assert "loss" not in log[2]
    assert "loss" in log[4]


def test_skipped_steps_change_nothing(rewound):
    workdir, result = rewound
    like = result.state
    shardings = jax.tree.map(lambda x: x.sharding, like)
    with contextlib.closing(Checkpointer(workdir / "checkpoints", keep=STEPS)) as kept:
        two, four = (kept.restore_state(step, like, shardings) for step in (2, 4))
    assert four.step == 4
    jax.tree.map(
        np.testing.assert_array_equal,
        *jax.device_get([(x.params, x.opt_state) for x in (two, four)]),
    )
    assert np.any(like.params["head"]["kernel"] != four.params["head"]["kernel"])


@pytest.mark.usefixtures("poisoned")
def test_killed_after_a_rewind_it_ends_with_the_same_bits(rewound, photos, tmp_path):
    workdir, result = rewound
    killed = shutil.copytree(workdir, tmp_path / "run")
    cut_back(killed, 6)
    resumed = train_and_evaluate(make_config(photos, keep_checkpoints=STEPS), killed)
    jax.tree.map(
        np.testing.assert_array_equal, *jax.device_get([result.state, resumed.state])
    )


@pytest.mark.usefixtures("poisoned")
def test_stopped_in_a_rewind_it_does_not_go_back_again(
    rewound, photos, tmp_path, monkeypatch
):
    real_rewind = Trainer.rewind

    def rewind(self, trouble):
        signal.raise_signal(signal.SIGTERM)
        real_rewind(self, trouble)

    config = make_config(photos)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "rewind", rewind)
        assert not train_and_evaluate(config, tmp_path).is_finished
    with contextlib.closing(Checkpointer(tmp_path / "checkpoints", keep=3)) as kept:
        assert [x.to for x in kept.restore_record(5).rewinds] == [4]
    resumed = train_and_evaluate(config, tmp_path)
    _, result = rewound
    jax.tree.map(
        np.testing.assert_array_equal, *jax.device_get([result.state, resumed.state])
    )
    log = [row["step"] for row in read_log(tmp_path) if "skipped" in row]
    assert log == list(range(1, STEPS + 1))


@pytest.mark.usefixtures("poisoned")
def test_it_is_given_up_with_a_report(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "data_seed", lambda seed, rewinds: seed)
    config = make_config(photos, **{"esgf.max_rewinds": 2})
    with pytest.raises(
        TrainError,
        match=r"given up after 2 rewinds \(step 5 back to 4: .*; step 5 back to 2:",
    ):
        train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("poisoned")
def test_nowhere_to_go_back_to(photos, tmp_path):
    config = make_config(photos, checkpoint_every=STEPS)
    with pytest.raises(TrainError, match="there is no checkpoint to go back to"):
        train_and_evaluate(config, tmp_path)


KNEE = 9


@pytest.fixture
def curve(monkeypatch):
    """Validations that rise until evaluation KNEE, and then stay."""
    noise = 0.02 * np.random.default_rng(0).standard_normal((1000, 2))

    def validate(self, experts, weights):
        self.calls = getattr(self, "calls", 0) + 1
        n = (self.calls - 1) // 2  # averaged, raw
        value = 20 + 8 * min(n, KNEE) / KNEE + noise[n, self.calls % 2]
        return (Evaluation("psnr", "bicubic", weights, True, value),), {}

    monkeypatch.setattr(Validator, "__call__", validate)


@pytest.fixture
def stopping(photos):
    return {
        "checkpoint_every": 10,
        "val.folder": str(photos),
        "val.crop_size": 32,
        "val.every": 1,
        "val.metrics": ("psnr",),
        "esgf.stop_at_knee": True,
    }


@pytest.mark.usefixtures("curve")
def test_a_run_ends_at_its_knee_and_hands_it_on(
    photos, tmp_path, stopping, monkeypatch
):
    config = make_config(photos, **stopping)
    result = train_and_evaluate(config, tmp_path / "run")
    selection = result.selection
    knee = selection.verdict.knee_step
    assert abs(knee - (KNEE + 1)) <= 2
    assert selection.by == "knee"
    assert selection.step == knee
    # As late as patience says, and no later.
    decided = selection.verdict.decided_at_step
    assert selection.trained_to == decided + config.esgf.patience < STEPS
    model = model_folder.load_pretrained(tmp_path / "run/model")
    assert model.training["esgf"] == selection.to_json()
    # The weights are those of a run that ends there.
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "is_agreed", lambda self, step: step == knee)
        short = train_and_evaluate(config, tmp_path / "short").state
    expected = split(ema_params(short.opt_state))
    jax.tree.map(
        np.testing.assert_array_equal, *jax.device_get([model.experts, expected])
    )
    verdict = json.loads((tmp_path / "run/knee.json").read_text())
    assert verdict["knee_step"] == knee
    # The same command again trains no further.
    config = make_config(photos, **stopping)
    again = train_and_evaluate(config, tmp_path / "run")
    assert again.selection == selection
    # By hand another knee.
    config = make_config(photos, **stopping, **{"esgf.knee_step": 4})
    by_hand = train_and_evaluate(config, tmp_path / "run").selection
    assert (by_hand.step, by_hand.by) == (4, "hand")
    assert model_folder.load_pretrained(tmp_path / "run/model").training["step"] == 4
    # A damaged one is replaced by its neighbour.
    files = (tmp_path / f"run/candidates/{knee}/default").rglob("*")
    largest = max(
        (path for path in files if path.is_file()), key=lambda path: path.stat().st_size
    )
    largest.write_bytes(bytes(largest.stat().st_size))
    instead = train_and_evaluate(make_config(photos, **stopping), tmp_path / "run")
    assert abs(instead.selection.step - knee) == 1
    # One that is not kept is not replaced by another.
    shutil.rmtree(tmp_path / "run/candidates/3")
    config = make_config(photos, **stopping, **{"esgf.knee_step": 3})
    with pytest.raises(
        TrainError, match=r"knee_step 3: no weights .* one of 1, 2, 4, 5,"
    ):
        train_and_evaluate(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/candidates")
    with pytest.raises(TrainError, match=r"candidates: is empty, the weights of step"):
        train_and_evaluate(make_config(photos, **stopping), tmp_path / "run")
    model = model_folder.load_pretrained(tmp_path / "run/model")
    assert model.training["step"] == instead.selection.step


@pytest.mark.usefixtures("curve")
def test_the_ring_keeps_the_newest_and_the_knee(photos, tmp_path, stopping):
    stopping |= {"esgf.stop_at_knee": False, "esgf.candidates": 4}
    result = train_and_evaluate(make_config(photos, **stopping), tmp_path)
    # Without stop_at_knee the result is the last step's, the knee only known.
    assert result.selection.step == result.selection.trained_to == STEPS
    kept = {int(path.name) for path in (tmp_path / "candidates").glob("[0-9]*")}
    newest = set(range(STEPS - 3, STEPS + 1))
    assert kept == newest | {result.selection.verdict.knee_step}


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("knee_step", 25, "esgf.knee_step 25 lies beyond the last of the 24 steps"),
        ("knee_step", -1, "esgf.knee_step must be at least 0"),
        ("patience", -1, "esgf.patience must be at least 0"),
        ("candidates", 0, "esgf.candidates must be at least 1"),
    ],
)
def test_what_no_run_can_work_with(photos, tmp_path, field, value, message):
    fields = {"val.folder": str(photos), f"esgf.{field}": value}
    with pytest.raises(TrainError, match=message):
        train_and_evaluate(make_config(photos, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_knee_needs_validations(photos, tmp_path):
    config = make_config(photos, **{"esgf.stop_at_knee": True})
    with pytest.raises(TrainError, match="finding a knee needs validations"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
