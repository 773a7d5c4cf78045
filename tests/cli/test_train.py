"""`linearsr train`: one config, stages, what cannot be used."""

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from linearsr_jax.config.loading import load_config
from linearsr_jax.training import stages
from linearsr_jax.training.batches import open_photographs
from linearsr_jax.training.setup import make_parts
from tests.cli.running import run
from tests.xla_flags import make_xla_flags

# As tests/training/test_loop.py has it, so that one compiled step serves both.
SMALL = [
    "steps=4",
    "optimizer.decay_steps=1",
    "mesh.fsdp=2",
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
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    output = tmp_path / "out.png"
    model = ["--model", workdir / "model"]
    assert run(capsys, "upscale", photos / "0.png", "-o", output, *model)[0] == 0
    assert output.is_file()
    # Finished: the same command has nothing left to do.
    before = (workdir / "metrics.jsonl").read_text()
    assert run(capsys, *arguments)[0] == 0
    assert (workdir / "metrics.jsonl").read_text() == before


def test_compiled_steps_are_kept_for_the_resume(photos, tmp_path):
    """In a process of its own, since the tests have a cache already."""
    options = ["data.folder=" + str(photos), *SMALL, "mesh.fsdp=1"]
    command = [sys.executable, "-m", "linearsr_jax", "train", "--config"]
    command += ["configs/debug.py", "--workdir", str(tmp_path / "run")]
    environment = dict(os.environ, XDG_CACHE_HOME=str(tmp_path / "cache"))
    environment["XLA_FLAGS"] = make_xla_flags(devices=1)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    subprocess.run(
        [*command, "--override", *options],
        env=environment,
        check=True,
        capture_output=True,
    )
    kept = (tmp_path / "cache/linearsr_jax").rglob("*stacked_step*")
    assert any(path.is_file() for path in kept)


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
    overrides = [f"data.folder={folder}", "condition.kind=tags"]
    overrides += [f"condition.file={cache}", *SMALL]
    parts = make_parts(load_config("configs/debug.py", overrides))
    photographs = open_photographs(parts.settings, parts.preset, None)
    assert len(photographs.source) == 3
    assert photographs.conditions is not None


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coordinator", "127.0.0.1:1"], "belong together"),
        (["--process", "2", "--processes", "2"], "belong together"),
        (
            ["--coordinator", "127.0.0.1:1", "--process", "2", "--processes", "2"],
            "must be below",
        ),
    ],
)
def test_processes_that_do_not_go_together(capsys, photos, tmp_path, options, message):
    code, _, err = run(
        *(capsys, "train", "--config", "configs/debug.py", *options),
        *("--workdir", tmp_path / "run", "--override", f"data.folder={photos}"),
    )
    assert code == 2
    assert message in err


def test_dry_run_lists_what_each_device_holds(capsys, tmp_path):
    """The bytes are those that the arrays of the published sizes have."""
    code, out, _ = run(
        *(capsys, "train", "--config", "configs/pretrain.py:600m", "--dry-run"),
        *(
            "--workdir",
            tmp_path / "run",
            "--override",
            "data.folder=photos",
            "val.holdout=0.1",
        ),
        # mesh.fsdp is 8 by default there.
        *("optimizer.name=adamw", "codec_folder=dc_ae"),
    )
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    sums = {line[0]: int(line[-1].replace(",", "")) for line in lines[-5:]}
    assert sums["all"] == sum(x for name, x in sums.items() if name != "all")
    # AdamW has two moments, and two counters of steps.
    assert sums["moments"] == 2 * sums["parameters"] + 8
    count = 591_897_280  # as tests/models/test_presets.py counts
    assert 4 * count / 8 < sums["parameters"] < 4.2 * count / 8
    (large,) = (
        x for x in out.splitlines() if x.startswith("params/time_embed/blocks/kernel")
    )
    assert "'fsdp'" in large
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=12"], "times the devices of mesh.data and mesh.fsdp, 8: 8 or 16"),
        (["data.crop_size=40"], "data.crop_size 40 must be a multiple of 32"),
        (["val.crop_size=100"], "val.crop_size 100 must be a multiple of 32"),
        (["mesh.fsdp=7"], "does not fit 8 devices"),
        (
            ["mesh.sequence=8", "batch_size=9", "data.crop_size=480"],
            "mesh.sequence 8 does not divide the 15 rows of latents",
        ),
    ],
)
def test_what_does_not_fit_the_mesh_is_refused(capsys, tmp_path, overrides, message):
    arguments = ["--config", "configs/pretrain.py:600m", "--dry-run"]
    arguments += [
        "--workdir",
        tmp_path,
        "--override",
        "data.folder=photos",
        "val.holdout=0.1",
    ]
    code, _, err = run(capsys, "train", *arguments, *overrides)
    assert code == 2
    assert message in err
