"""`linearsr train`: one config, stages, what cannot be used."""

import json

import numpy as np
import PIL.Image

from linearsr_jax.training import stages
from tests.cli.running import run

SMALL = [
    "steps=2",
    "batch_size=8",
    "optimizer.warmup_steps=0",
    "optimizer.decay_steps=1",
    "log_every=1",
    "val.crop_size=32",
]


def test_trains_a_model_that_upscales(capsys, photos, tmp_path):
    workdir = tmp_path / "run"
    options = ["--workdir", workdir, "--override", f"data.folder={photos}", *SMALL]
    arguments = ["train", "--config", "configs/debug.py", *options]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (0, "")
    assert "broken.png" in err
    lines = [
        json.loads(x) for x in (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    output = tmp_path / "out.png"
    model = ["--model", workdir / "model"]
    assert run(capsys, "upscale", photos / "0.png", "-o", output, *model)[0] == 0
    assert output.is_file()
    # Finished: the same command has nothing left to do.
    before = (workdir / "metrics.jsonl").read_text()
    assert run(capsys, *arguments)[0] == 0
    assert (workdir / "metrics.jsonl").read_text() == before


def test_tags_of_what_upscaling_refuses(capsys, tmp_path):
    """A cache has a line for every photograph that training reads."""
    folder, cache = tmp_path / "photos", tmp_path / "tags.jsonl"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 40, 4), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "clear.png")
    PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(
        folder / "deep.png"
    )
    frames = [PIL.Image.fromarray(pixels[..., i : i + 3]) for i in (0, 1)]
    frames[0].save(folder / "frames.tif", save_all=True, append_images=frames[1:])
    assert run(capsys, "tag", folder, "--cache", cache, "--tagger", "light")[0] == 0
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["clear.png", "deep.png", "frames.tif"]
    code, _, err = run(
        *(capsys, "train", "--config", "configs/debug.py"),
        *("--workdir", tmp_path / "run", "--override", f"data.folder={folder}"),
        *("condition.kind=tags", f"condition.file={cache}", *SMALL),
    )
    assert code == 0, err
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_several_configs_are_stages(capsys, tmp_path, monkeypatch):
    asked_for = []
    monkeypatch.setattr(stages, "run_stages", lambda *args: not asked_for.append(args))
    configs = ["configs/pretrain.py:debug", "configs/debug.py"]
    overrides = ["--override", "steps=9", "debug.seed=3"]
    code, _, _ = run(
        *(capsys, "train", "--config", *configs, "--workdir", tmp_path, *overrides)
    )
    assert code == 0
    ((found, workdir),) = asked_for
    assert [(name, x.steps, x.seed) for name, x in found.items()] == [
        ("pretrain", 9, 0),
        ("debug", 9, 3),
    ]
    assert workdir == tmp_path


def test_an_unusable_folder(capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    code, _, err = run(
        capsys,
        *("train", "--config", "configs/debug.py", "--workdir", tmp_path / "run"),
        *("--override", f"data.folder={tmp_path / 'photos'}"),
    )
    assert code == 1
    assert "photos" in err.splitlines()[-1]
