"""`linearsr upscale`: files and folders in, files four times as large out."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from tests.cli.running import run

ROOT = Path(__file__).resolve().parents[2]


def describe(path):
    """Mode and size of an image file."""
    with Image.open(path) as image:
        return image.mode, image.size


def test_one_image(capsys, photo, tmp_path):
    code, out, err = run(capsys, "upscale", photo, "-o", tmp_path / "big.png", "--json")
    assert code == 0
    assert err.count("big.png") == 1
    (output,) = json.loads(out.splitlines()[-1])["outputs"]
    assert (output["width"], output["height"]) == (36, 24)
    assert output["input"] == str(photo)
    assert output["tags"] == []
    assert describe(tmp_path / "big.png") == ("RGB", (36, 24))


def test_with_experts_on_the_host(capsys, photo, tmp_path, monkeypatch):
    from linearsr_jax.inference import upscaler

    made, offloaded = [], upscaler.OffloadedDenoiser
    monkeypatch.setattr(
        upscaler, "OffloadedDenoiser", lambda *a: made.append(a) or offloaded(*a)
    )
    code, _, _ = run(
        capsys, "upscale", photo, "-o", tmp_path / "big.png", "--offload-experts"
    )
    assert code == 0
    assert run(capsys, "upscale", photo, "-o", tmp_path / "same.png")[0] == 0
    assert len(made) == 1
    images = [Image.open(tmp_path / f"{name}.png") for name in ("big", "same")]
    np.testing.assert_array_equal(*map(np.asarray, images))


def test_grayscale_stays_grayscale(capsys, photo, tmp_path):
    Image.open(photo).convert("L").save(photo)
    assert run(capsys, "upscale", photo, "-o", tmp_path / "big.jpg")[0] == 0
    assert describe(tmp_path / "big.jpg") == ("L", (36, 24))


def test_profile_and_exif_are_kept(capsys, photo, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    source = tmp_path / "photo.jpg"
    Image.open(photo).save(source, icc_profile=profile, exif=exif)
    options = ["--tags", "bird"]
    assert run(capsys, "upscale", source, "-o", tmp_path / "big.png", *options)[0] == 0
    with Image.open(tmp_path / "big.png") as image:
        assert image.info["icc_profile"] == profile
        assert image.getexif()[ExifTags.Base.Artist] == "somebody"
        assert image.getexif()[ExifTags.Base.XPKeywords] == "bird\0".encode("utf-16-le")


def test_folder_goes_on_after_a_bad_file(capsys, photo, tmp_path):
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


def test_a_finished_folder_again(capsys, photo, tmp_path):
    out = tmp_path / "out"
    assert run(capsys, "upscale", photo, "-o", out)[0] == 0
    before = (out / "photo.png").stat().st_mtime_ns
    code, text, err = run(capsys, "upscale", photo, "-o", out, "--json")
    assert code == 0
    assert json.loads(text)["skipped"] == [
        {"input": str(photo), "reason": "the output exists"}
    ]
    assert "1 skipped (the output exists)" in err
    assert (out / "photo.png").stat().st_mtime_ns == before


def test_failures_are_listed(capsys, photo, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    inputs = (photo, tmp_path / "text.png", tmp_path / "absent.png")
    code, text, err = run(capsys, "upscale", *inputs, "-o", tmp_path / "out", "--json")
    assert code == 1
    result = json.loads(text)
    assert [each["input"] for each in result["outputs"]] == [str(photo)]
    assert [each["input"] for each in result["failures"]] == [
        str(tmp_path / "absent.png"),
        str(tmp_path / "text.png"),
    ]
    assert not result["interrupted"]
    # The name is said once.
    (line,) = (line for line in err.splitlines() if "text.png" in line)
    assert line.count("text.png") == 1
    assert "1 upscaled" in err
    assert "2 failed" in err


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "0"],
        ["--steps", "1001"],
        ["--max-memory", "inf"],
        ["--max-memory", "nan"],
        ["--guidance-scale", "1e30"],
        ["--guidance-scale", "nan"],
        ["--seed", "-1"],
        ["--shard", "3/2"],
        ["--shard", "1"],
        ["--overwrite", "--skip-existing"],
        ["--suffix", "a/b"],
    ],
)
def test_settings_that_are_refused(capsys, photo, tmp_path, options):
    code, _, err = run(capsys, "upscale", photo, "-o", tmp_path / "out", *options)
    assert code == 2
    assert options[0] in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["", "-o", "x"], ["-", "-o", "-", "--json"]])
def test_arguments_that_do_not_go_together(capsys, arguments):
    assert run(capsys, "upscale", *arguments)[0] == 2


def test_more_steps_than_a_model_was_trained_for(capsys, photo, tmp_path):
    arguments = ("upscale", photo, "-o", tmp_path / "out", "--overwrite")
    assert "look worse" in run(capsys, *arguments, "--steps", "2")[2]
    for options in (["--steps", "1"], ["--model", "nano-flow", "--steps", "2"]):
        assert "look worse" not in run(capsys, *arguments, *options)[2]


def test_settings_that_do_nothing(capsys, photo, tmp_path):
    again = ("upscale", photo, "-o", tmp_path / "o.png", "--overwrite")
    options = ("--seed", "0", "--guidance-scale", "3")
    code, _, err = run(capsys, *again, *options)
    assert code == 0
    assert "--seed does nothing: model nano in one step" in err
    assert "--guidance-scale does nothing without tags" in err
    code, _, err = run(capsys, *again, *options[2:], "--tags", "bird")
    assert (code, "does nothing" in err) == (0, False)
    # What an output was made with is not asked for.
    seven = tmp_path / "seven.png"
    run(capsys, "upscale", photo, "-o", seven, "--seed", "7")
    code, _, err = run(capsys, "upscale", "--repeat", seven, "-o", tmp_path / "8.png")
    assert (code, "does nothing" in err) == (0, False)
    assert seven.read_bytes() == (tmp_path / "8.png").read_bytes()


def test_the_readmes_tags_do_something(capsys, tmp_path):
    """Its example says "bird, branch" of its own photograph."""
    source = tmp_path / "sample.png"
    with Image.open(ROOT / "docs" / "images" / "sample.png") as sample:
        sample.crop((0, 0, 48, 32)).save(source)
    images = {}
    for tags in ("", "bird, branch"):
        output = tmp_path / f"{len(tags)}.png"
        arguments = ("upscale", source, "-o", output, "--tags", tags)
        assert run(capsys, *arguments)[0] == 0
        images[tags] = np.asarray(Image.open(output)).astype(int)
    assert np.abs(images[""] - images["bird, branch"]).max() > 0


def test_streams(photo):
    """In a process of its own, with real standard input and output."""
    command = [sys.executable, "-m", "linearsr_jax", "upscale", "-", "-o", "-"]
    done = subprocess.run(command, input=photo.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert Image.open(io.BytesIO(done.stdout)).size == (36, 24)


def test_json_of_a_command_that_fails_as_a_whole(capsys, photo, tmp_path):
    options = ("-o", tmp_path / "o.png", "--model", "nope", "--json")
    code, out, err = run(capsys, "upscale", photo, *options)
    assert code == 1
    result = json.loads(out)
    assert "no such model" in result["error"]
    assert result["error"] in err
    assert result["outputs"] == result["failures"] == []
