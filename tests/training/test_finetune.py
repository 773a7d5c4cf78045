"""`linearsr finetune` on a model of no skill and a handful of small photographs."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from linearsr_jax.cli import main as cli
from linearsr_jax.codecs import CODECS
from linearsr_jax.config.loading import load_config
from linearsr_jax.core.image_io import read_image
from linearsr_jax.evaluation.runner import evaluate
from linearsr_jax.evaluation.tables import summarize, to_json
from linearsr_jax.inference.upscaler import Upscaler
from linearsr_jax.models.presets import get_preset
from linearsr_jax.pretrained import model_folder
from linearsr_jax.training.finetune import FinetuneError, finetune, finetune_config
from linearsr_jax.training.record import TrainError
from tests.experts_testing import make_experts

OVERRIDES = (
    "steps=2",
    "optimizer.decay_steps=1",
    "optimizer.warmup_steps=0",
    "data.crop_size=32",
    "val.crop_size=48",
    "val.every=1",
    "val.metrics=('psnr',)",
    "scan_unroll=1",
)


def save_model(folder, preset):
    model = preset.make_model()
    params = jax.device_get(model.init_params(jax.random.key(3)))
    # The head starts at zero, and then the model is bicubic whatever else it holds.
    params["head"]["kernel"] = 0.05 * np.sin(np.arange(32 * 48)).reshape(32, 48)
    config = {"training": {}, "card": "A model of no skill.\n", "tagger": "light"}
    model_folder.save_pretrained(folder, (params,), preset, CODECS["pixel"](), **config)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base") / "mine", get_preset("debug"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        size = (70 + i, 61)  # not multiples of 4
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(
            folder / f"{i}.png"
        )
    return folder


@pytest.fixture(scope="module")
def run(photos, base, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, finetune(photos, workdir, model=str(base), overrides=OVERRIDES)


def test_table_compares_before_and_after(run):
    workdir, result = run
    assert result.model == workdir / "model"
    for degradation in ("bicubic", "light"):
        names = [row.name for row in result.tables[degradation]]
        assert names == ["bicubic", "bicubic+unsharp", "before", "after"]
        before, after = result.tables[degradation][2:]
        assert before.averages["psnr"] != after.averages["psnr"]


def test_held_out_photographs_are_not_trained_on(run, photos):
    workdir, _ = run
    training = model_folder.load_pretrained(workdir / "model").training
    (held_out,) = training["held_out"]
    assert {*training["files"], held_out} == {path.name for path in photos.iterdir()}
    assert held_out not in training["files"]
    for data_set in (workdir / "held_out").iterdir():
        image_hr = read_image(data_set / "HR" / "0000.png").rgb
        # Nothing is cut from small photographs but what four does not divide.
        with Image.open(photos / held_out) as original:
            whole = np.asarray(original)
        height, width = (size - size % 4 for size in whole.shape[:2])
        np.testing.assert_array_equal(image_hr, whole[:height, :width])
        assert read_image(data_set / "LR" / "0000.png").rgb.shape == (
            height // 4,
            width // 4,
            3,
        )


def test_picture_shows_bicubic_before_after_and_truth(run):
    with Image.open(run[0] / "before_after.png") as picture:
        assert picture.size == (4 * 60, 60)


def test_it_starts_from_the_given_weights(run, base):
    workdir, _ = run
    after = model_folder.load_pretrained(workdir / "model")
    before = model_folder.load_pretrained(base)
    # In two steps Adam goes no further than about twice the learning rate.
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=5e-4)
    jax.tree.map(close, after.experts, before.experts)


def test_it_keeps_what_was_not_trained(run):
    workdir, _ = run
    assert model_folder.load_pretrained(workdir / "model").tagger == "light"


def test_every_expert_is_trained_and_compared(photos, tmp_path):
    experts, boundaries = make_experts(2), (0.875,)
    folder = tmp_path / "flow"
    config = {"boundaries": boundaries, "training": {}, "card": "Two of no skill.\n"}
    preset, codec = get_preset("debug"), CODECS["pixel"]()
    model_folder.save_pretrained(folder, experts, preset, codec, **config)
    result = finetune(photos, tmp_path / "run", model=str(folder), overrides=OVERRIDES)
    after = model_folder.load_pretrained(result.model)
    assert after.boundaries == boundaries
    for was, now in zip(experts, after.experts, strict=True):
        assert (was["head"]["kernel"] != now["head"]["kernel"]).any()
    # One step would be the noisiest expert's alone.
    assert finetune_config(photos, "nano-flow").val.steps == 4
    *_, before = result.tables["bicubic"][:3]
    data_set = tmp_path / "run" / "held_out" / "bicubic"
    steps = finetune_config(photos, str(folder)).val.steps
    assert steps >= 2
    upscale = functools.partial(Upscaler.from_pretrained(folder), steps=steps)
    scores = evaluate(
        {"before": upscale}, ("psnr",), hr=data_set / "HR", lr=data_set / "LR"
    )
    (expected,) = summarize(scores.per_image)
    assert before.averages["psnr"] == expected.averages["psnr"]


@pytest.fixture(scope="module")
def nano_run(photos, tmp_path_factory):
    overrides = (
        *OVERRIDES,
        "batch_size=8",  # a sample for each device
        # What takes long to compile, and tests/training/test_adversary.py trains with.
        "loss.lpips=0.0",
        "loss.adversarial=0.0",
        # So that two steps show in the image.
        "optimizer.learning_rate=0.003",
        "optimizer.ema_decay=0.5",
    )
    return finetune(photos, tmp_path_factory.mktemp("nano"), overrides=overrides)


def test_nano_keeps_its_slider(nano_run, photos):
    """Fidelity 0 stays as it was; the others learn."""
    image = read_image(photos / "0.png").rgb
    before, after = map(Upscaler.from_pretrained, ("nano", nano_run.model))
    for fidelity, changes in ((0.0, False), (None, True), (1.0, True)):
        outputs = [model(image, fidelity=fidelity) for model in (before, after)]
        assert (outputs[0] != outputs[1]).any() == changes


def test_nano_keeps_its_default_and_says_so(nano_run):
    before, after = map(model_folder.load_pretrained, ("nano", nano_run.model))
    assert after.default_fidelity == before.default_fidelity
    assert "the default is 0.9" in (nano_run.model / "README.md").read_text()


def test_nano_is_trained_by_the_losses_that_made_it():
    own = finetune_config("photos", "nano")
    made_by = load_config("configs/nano.py:perceptual")
    for field in ("loss", "mass_at_one", "discriminator", "batch_size"):
        assert own[field] == made_by[field]
    assert own.data.degradations == made_by.data.degradations
    assert own.optimizer.learning_rate < made_by.optimizer.learning_rate / 5


def test_command(run, photos, base, capsys):
    """On the finished run: it has nothing to train, and is compared again."""
    workdir, result = run
    arguments = ["finetune", str(photos), "--workdir", str(workdir)]
    arguments += ["--model", str(base), "--json", "--override", *OVERRIDES]
    assert cli.main(arguments) == 0
    last_line = capsys.readouterr().out.splitlines()[-1]
    printed = json.loads(last_line)
    assert printed.pop("model") == str(result.model)
    assert printed == {name: to_json(rows) for name, rows in result.tables.items()}
    assert cli.main([*arguments[:4], "--override", "step=3"]) == 2


def test_config_is_of_the_models_preset():
    config = finetune_config("photos", "nano", ["data.crop_size=64"])
    assert (config.preset, config.init_from) == ("nano", "nano")
    assert config.data.crop_size == 64
    assert config.is_locked


def test_a_model_of_no_preset_is_refused(tmp_path):
    odd = dataclasses.replace(get_preset("debug"), depth=1)
    save_model(tmp_path / "odd", odd)
    with pytest.raises(FinetuneError, match="odd: its sizes are those of no preset"):
        finetune_config("photos", str(tmp_path / "odd"))


def test_weights_of_another_size_are_refused(photos, base, tmp_path):
    overrides = (*OVERRIDES, "preset=nano")
    with pytest.raises(TrainError, match=r"init_from .*mine: .* other sizes"):
        finetune(photos, tmp_path / "run", model=str(base), overrides=overrides)


def test_a_workdir_among_the_photographs_is_refused(photos, base):
    with pytest.raises(FinetuneError, match="choose a --workdir outside"):
        finetune(photos, photos / "run", model=str(base))


def test_a_comparison_needs_photographs_held_out(photos, base):
    with pytest.raises(FinetuneError, match=r"val\.holdout must be above 0"):
        finetune_config(photos, str(base), ["val.holdout=0.0"])


def test_one_photograph_is_too_few(photos, base, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "0.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(ValueError, match="at least 2 usable photographs"):
        finetune(
            tmp_path / "one", tmp_path / "run", model=str(base), overrides=OVERRIDES
        )
