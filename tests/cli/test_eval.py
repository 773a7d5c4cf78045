"""`linearsr eval`: tables of models and folders, what is missing."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.cli.main import make_parser
from linearsr_jax.metrics import METRICS
from tests.cli.running import run


@pytest.fixture
def data(tmp_path):
    """Two images of noise: HR, and LR made of them."""
    rng = np.random.default_rng(0)
    for name in ("HR", "LR"):
        (tmp_path / name).mkdir()
    for i in range(2):
        image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        image.save(tmp_path / "HR" / f"{i}.png")
        reduced = image.resize((16, 12), Image.Resampling.BICUBIC)
        reduced.save(tmp_path / "LR" / f"{i}.bmp")
    return tmp_path


def test_table_and_json(capsys, photo, tmp_path):
    for name in ("HR", "LR"):
        (tmp_path / name).mkdir()
    Image.open(photo).save(tmp_path / "LR" / "0.png")
    Image.open(photo).resize((36, 24)).save(tmp_path / "HR" / "0.png")
    # nano's own number of steps is one.
    args = ("eval", "--data", tmp_path, "--metrics", "psnr,ssim")
    files = [tmp_path / "all.csv", tmp_path / "all.json"]
    code, out, _ = run(capsys, *args, "--json", "--per-image", *files)
    assert code == 0
    rows = json.loads(out.splitlines()[-1])["rows"]
    names = ["bicubic", "bicubic+unsharp", "nano steps=1"]
    assert [row["name"] for row in rows] == names
    assert rows[0]["psnr"].keys() == {"mean", "stderr"}
    assert files[0].read_text().count("\n") == 4
    assert len(json.loads(files[1].read_text())["rows"]) == 3
    # A folder named like a row of ours keeps both rows.
    (tmp_path / "bicubic").mkdir()
    shutil.copy(tmp_path / "HR" / "0.png", tmp_path / "bicubic")
    sr = tmp_path / "bicubic"
    _, out, _ = run(capsys, *args[:5], "--sr", sr, "--json")
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows] == ["bicubic", "bicubic+unsharp", str(sr)]
    # Said before the work, and not overwritten.
    code, _, err = run(capsys, *args, "--per-image", files[0])
    assert code == 1
    assert "--overwrite" in err
    twice = [tmp_path / "new.csv", tmp_path / "." / "new.csv"]
    code, _, err = run(capsys, *args, "--per-image", *twice)
    assert code == 2
    assert "the same file twice" in err


def test_scores_folders_without_a_model(data, capsys):
    hr, lr = data / "HR", data / "LR"
    outputs = data / "outputs"
    outputs.mkdir()
    for path in hr.iterdir():
        Image.open(path).save(outputs / f"{path.stem}_x4.webp", lossless=True)
    args = ("--sr", outputs, hr, "--hr", hr, "--lr", lr, "--metrics", "psnr,lr_psnr")
    code, out, _ = run(capsys, "eval", *args, "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows] == ["outputs", "HR"]
    # 10 log10(1 / 1e-8): the protocol's PSNR of equal images.
    assert rows[0]["psnr"] == {"mean": pytest.approx(80), "stderr": pytest.approx(0)}
    code, out, _ = run(capsys, "eval", *args)
    assert out.splitlines()[0].split() == ["name", "n", "psnr", "↑", "lr_psnr", "↑"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sr", "{HR}"], "psnr compares with the true images"),
        (["--sr", "{HR}", "--metrics", "lr_psnr"], "add --lr DIR"),
        (["--data", ".", "--lr", "{HR}"], "leave out --hr and --lr"),
        (["--lr", "{HR}", "--model", "nano"], "psnr compares with the true images"),
        (["--sr", "{HR}", "--metrics", "niqe", "--model", "nano"], "add --lr DIR"),
        (
            ["--sr", "{HR}", "--hr", "{HR}", "--steps", "1"],
            "--steps belongs to --model",
        ),
        (["--sr", "{HR}", "--hr", "{HR}", "--seed", "0"], "--seed belongs to --model"),
        (["--sr", "{HR}", "--hr", "{HR}", "--max-memory", "1"], "--max-memory belongs"),
        (["--sr", "{HR}", "--hr", "{HR}", "--dtype", "float32"], "--dtype belongs to"),
        (["--hr", "{HR}"], "give --data DIR, --lr DIR, or --sr DIR"),
    ],
)
def test_says_what_is_missing(data, capsys, args, message):
    code, out, err = run(capsys, "eval", *(arg.format(HR=data / "HR") for arg in args))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_help_names_every_metric_and_what_it_needs(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["eval", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, metric in METRICS.items():
        assert name in text
        assert not metric.needs or f"with {metric.needs} " in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "99"], "devices must be a whole number from 1 to "),
        (["--max-memory", "1e-6"], "raise max_memory (--max-memory)"),
    ],
)
def test_how_the_model_computes(data, capsys, options, message):
    options = ("--lr", data / "LR", "--metrics", "lr_psnr", *options)
    code, _, err = run(capsys, "eval", *options)
    assert code == 1
    assert message in err.splitlines()[-1]
