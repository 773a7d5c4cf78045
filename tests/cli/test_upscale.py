"""`linearsr upscale`: files and folders in, files four times as large out."""

import json

import numpy as np
from PIL import ExifTags, Image, ImageCms

from tests.cli.running import run


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


def test_two_inputs_for_one_output(capsys, photo, tmp_path):
    Image.open(photo).save(tmp_path / "photo.bmp")
    code, _, err = run(capsys, "upscale", tmp_path, "-o", tmp_path / "out")
    assert code == 1
    assert "would both become" in err
