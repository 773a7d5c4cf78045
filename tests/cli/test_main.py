"""The command: exit codes, messages, files."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.cli import main as cli


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).save(path)
    return path


def describe(path):
    """Mode and size of an image file."""
    with Image.open(path) as image:
        return image.mode, image.size


def run(capsys, *args):
    """Runs the command; returns its exit code, standard output and error."""
    try:
        code = cli.main([str(arg) for arg in args])
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_upscale_one_image(capsys, photo, tmp_path):
    code, out, err = run(capsys, "upscale", photo, "-o", tmp_path / "big.png", "--json")
    assert code == 0
    assert err.count("big.png") == 1
    (output,) = json.loads(out.splitlines()[-1])["outputs"]
    assert (output["width"], output["height"]) == (36, 24)
    assert output["input"] == str(photo)
    assert output["tags"] == []
    assert describe(tmp_path / "big.png") == ("RGB", (36, 24))


def test_upscale_with_experts_on_the_host(capsys, photo, tmp_path, monkeypatch):
    from linearsr_jax.inference import upscaler

    made, offloaded = [], upscaler.OffloadedUpscale
    monkeypatch.setattr(
        upscaler, "OffloadedUpscale", lambda *a: made.append(a) or offloaded(*a)
    )
    code, _, _ = run(
        capsys, "upscale", photo, "-o", tmp_path / "big.png", "--offload-experts"
    )
    assert code == 0
    assert run(capsys, "upscale", photo, "-o", tmp_path / "same.png")[0] == 0
    assert len(made) == 1
    images = [Image.open(tmp_path / f"{name}.png") for name in ("big", "same")]
    np.testing.assert_array_equal(*map(np.asarray, images))


def test_upscale_grayscale_stays_grayscale(capsys, photo, tmp_path):
    Image.open(photo).convert("L").save(photo)
    assert run(capsys, "upscale", photo, "-o", tmp_path / "big.jpg")[0] == 0
    assert describe(tmp_path / "big.jpg") == ("L", (36, 24))


def test_upscale_folder_goes_on_after_a_bad_file(capsys, photo, tmp_path):
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.png", "deeper/b.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "text.png").write_text("not an image")
    out = tmp_path / "out"
    code, text, err = run(capsys, "upscale", folder, "-o", out, "--recursive", "--json")
    assert code == 1
    assert len(json.loads(text.splitlines()[-1])["outputs"]) == 2
    assert "text.png" in err
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == [
        "a.png",
        "deeper/b.png",
    ]


def test_existing_output_is_kept(capsys, photo, tmp_path):
    output = tmp_path / "big.png"
    output.write_bytes(b"precious")
    code, _, err = run(capsys, "upscale", photo, "-o", output)
    assert code == 1
    assert "--overwrite" in err
    assert output.read_bytes() == b"precious"
    assert run(capsys, "upscale", photo, "-o", output, "--overwrite")[0] == 0
    assert describe(output) == ("RGB", (36, 24))


def test_two_inputs_for_one_output(capsys, photo, tmp_path):
    Image.open(photo).save(tmp_path / "photo.bmp")
    code, _, err = run(capsys, "upscale", tmp_path, "-o", tmp_path / "out")
    assert code == 1
    assert "would both become" in err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["upscale", "{tmp}/absent.png", "-o", "{tmp}/o.png"], 1, "no such file"),
        (["upscale", "{tmp}/text.png", "-o", "{tmp}/o.png"], 1, "text.png"),
        (["upscale", "{tmp}/empty", "-o", "{tmp}/out"], 1, "empty"),
        (["upscale", "{photo}", "-o", "{tmp}/o.xyz"], 1, "xyz"),
        (["upscale", "{photo}", "-o", "/proc/o.png"], 1, "/proc"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--model", "m"], 1, "no such mod"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--steps", "0"], 2, "--steps"),
        (["upscale", "{photo}", "-o", "{tmp}/o.png", "--seed", "x"], 2, "--seed"),
        (["upscale", "{photo}"], 2, "-o"),
        (["eval", "--data", "{tmp}/absent"], 1, "no such folder"),
        (["eval", "--data", "{tmp}", "--metrics", "psnrr"], 2, "did you mean 'psnr'"),
        (["eval", "--hr", "{tmp}"], 2, "--sr"),
        (["eval"], 2, "--data"),
        (["train", "--config", "absent.py", "--workdir", "{tmp}/w"], 2, "no such conf"),
        (["info", "--model", "absent"], 1, "no such model"),
        (["sharpen"], 2, "invalid choice"),
    ],
)
def test_errors_are_one_line(capsys, photo, tmp_path, args, code, message):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    args = [arg.format(tmp=tmp_path, photo=photo) for arg in args]
    actual, out, err = run(capsys, *args)
    assert actual == code
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_train_reports_an_unusable_folder(capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    code, _, err = run(
        capsys,
        *("train", "--config", "configs/debug.py", "--workdir", tmp_path / "run"),
        *("--override", f"data.folder={tmp_path / 'photos'}"),
    )
    assert code == 1
    assert "photos" in err.splitlines()[-1]


def test_eval_table_and_json(capsys, photo, tmp_path):
    for name in ("HR", "LR"):
        (tmp_path / name).mkdir()
    Image.open(photo).save(tmp_path / "LR" / "0.png")
    Image.open(photo).resize((36, 24)).save(tmp_path / "HR" / "0.png")
    args = ("eval", "--data", tmp_path, "--metrics", "psnr,ssim", "--steps", "1")
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


def test_bench(capsys, monkeypatch):
    from kernels_pallas.linear_attention import bench

    report = {
        "device": "cpu",
        "copy_gb_per_s": 1.0,
        "rows": [{"form": "x", "ms": None}],
    }
    monkeypatch.setattr(bench, "bench", lambda: report)
    code, out, _ = run(capsys, "bench", "attention", "--json")
    assert code == 0
    assert json.loads(out) == report
    assert "form  ms" in run(capsys, "bench", "attention")[1]


def test_bench_experts(capsys, monkeypatch):
    from linearsr_jax.benchmarks import experts as module

    monkeypatch.setattr(module, "CPU_SIDE", 8)
    monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(module.bench_lib, "copy_bandwidth", lambda: 1e9)
    code, out, _ = run(
        capsys, "bench", "experts", "--preset", "debug", "--steps", "4", "--json"
    )
    assert code == 0
    rows = {row["what"]: row for row in json.loads(out)["rows"]}
    assert rows["one expert"]["ratio"] == 1.0
    assert rows.keys() >= {"four resident", "four offloaded", "transfer of one"}
    assert all(row["ms"] > 0 for row in rows.values())
    # The debug preset's 131,616 parameters.
    assert rows["transfer of one"]["mb"] == 0.53
    assert run(capsys, "bench", "experts", "--preset", "absent")[0] == 1
    code, _, err = run(capsys, "bench", "experts", "--preset", "600m")
    assert code == 1
    assert "weights of its own" in err


def test_info(capsys):
    code, out, _ = run(capsys, "info", "--json")
    assert code == 0
    assert json.loads(out)["model"]["parameters"] == 742_416
    assert "sha256" in run(capsys, "info")[1]


def test_help_does_not_wait_for_jax():
    code = "import sys; sys.argv = ['linearsr', '--help']\n"
    code += "from linearsr_jax.cli import main\n"
    code += "try: main.main()\nexcept SystemExit: pass\n"
    code += "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
