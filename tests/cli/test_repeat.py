"""The manifest in outputs, and `linearsr upscale --repeat`."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.cli import repeating
from linearsr_jax.core import image_io, images
from linearsr_jax.core.files import sha256
from linearsr_jax.core.image_io import read_comment, read_image, write_image
from linearsr_jax.inference.manifest import Manifest, ManifestError
from tests.cli.running import run

SETTINGS = ["--seed", "7", "--scale", "2.5", "--fidelity", "0.4", "--consistent"]


def upscale(capsys, *args):
    code, out, err = run(capsys, "upscale", *args)
    assert code == 0, err
    return out


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "bmp"])
def test_the_same_bytes_again(capsys, photo, tmp_path, suffix):
    first, again = (tmp_path / f"{name}.{suffix}" for name in ("first", "again"))
    options = [*SETTINGS, "--tags", "bird, sky", "--quality", "80"]
    upscale(capsys, photo, "-o", first, *options)
    upscale(capsys, "--repeat", first, "-o", again)
    assert again.read_bytes() == first.read_bytes()
    sidecar = tmp_path / f"again.{suffix}.json"
    assert sidecar.exists() == (suffix == "bmp")


def test_a_manifest_beside_is_of_the_output(capsys, tmp_path, photo):
    """What an earlier output of the name left is no longer taken for this one's."""
    camera = tmp_path / "camera.webp"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0by hand"
    with Image.open(photo) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(camera, exif=exif)
    target, again = tmp_path / "o.webp", tmp_path / "again.webp"
    sidecar = tmp_path / "o.webp.json"
    upscale(capsys, camera, "-o", target)
    assert sidecar.exists()
    upscale(capsys, photo, "-o", target, "--overwrite")
    assert not sidecar.exists()
    upscale(capsys, "--repeat", target, "-o", again)
    assert again.read_bytes() == target.read_bytes()
    # A result that is enlarged again does not keep its own.
    upscale(capsys, target, "-o", tmp_path / "twice.webp", "--scale", "1")
    assert not (tmp_path / "twice.webp.json").exists()
    assert json.loads(read_comment(tmp_path / "twice.webp"))["input"] == "o.webp"


def test_the_manifest_beside_comes_before_the_output(capsys, tmp_path, photo):
    sidecar = tmp_path / "o.bmp.json"
    sidecar.mkdir()  # so that it cannot be written
    code, _, err = run(capsys, "upscale", photo, "-o", tmp_path / "o.bmp")
    assert code == 1
    assert "o.bmp.json" in err
    assert not (tmp_path / "o.bmp").exists()
    sidecar.rmdir()
    sidecar.write_text("mine")
    code, _, err = run(capsys, "upscale", photo, "-o", tmp_path / "o.bmp")
    assert (code, sidecar.read_text()) == (1, "mine")


def test_an_output_of_release_0_2_has_no_devices(capsys, photo, tmp_path):
    first, again = (tmp_path / f"{name}.bmp" for name in ("first", "again"))
    upscale(capsys, photo, "-o", first)
    sidecar = tmp_path / "first.bmp.json"
    manifest = json.loads(sidecar.read_text())
    assert manifest["settings"].pop("devices") == 1
    sidecar.write_text(json.dumps(manifest))
    upscale(capsys, "--repeat", first, "-o", again)
    assert again.read_bytes() == first.read_bytes()


def test_format_and_limit_of_pixels_again(capsys, photo, tmp_path, monkeypatch):
    # As if the photograph were beyond the usual limit.
    monkeypatch.setattr(image_io, "MAX_PIXELS", 50)
    options = ["--format", "webp", "--max-pixels", "1"]
    upscale(capsys, photo, "-o", tmp_path / "first", *options)
    first, again = (tmp_path / name / "photo.webp" for name in ("first", "again"))
    upscale(capsys, "--repeat", first, photo, "-o", tmp_path / "again")
    assert again.read_bytes() == first.read_bytes()
    # What is said of the new file counts.
    upscale(capsys, "--repeat", first, photo, "-o", tmp_path / "other.jpg")
    with Image.open(tmp_path / "other.jpg") as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("version", "linearsr_jax 0.1.2 "),
        ("jax", "jax 0.1.2 "),
        ("platform", "on 0.1.2"),
    ],
)
def test_other_versions_are_named(capsys, photo, tmp_path, field, text):
    first = tmp_path / "first.png"
    upscale(capsys, photo, "-o", first)
    _, _, same = run(capsys, "upscale", "--repeat", first, "-o", tmp_path / "a.png")
    assert "may differ" not in same
    record = json.loads(read_comment(first)) | {field: "0.1.2"}
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(record))
    code, _, err = run(capsys, "upscale", "--repeat", path, "-o", tmp_path / "b.png")
    (line,) = [line for line in err.splitlines() if "may differ" in line]
    assert code == 0
    assert text in line


def test_what_is_recorded(capsys, photo, tmp_path):
    target = tmp_path / "o.png"
    out = upscale(capsys, photo, "-o", target, *SETTINGS, "--tags", "bird", "--json")
    # By another reader.
    with Image.open(target) as image:
        record = json.loads(image.text["linearsr"])
    assert record["model"] == "nano"
    assert len(record["model_sha256"]) == 64
    assert record["input"] == "photo.png"
    assert record["input_sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert record["tags"] == ["bird"]
    settings = record["settings"]
    assert (settings["seed"], settings["scale"], settings["fidelity"]) == (7, 2.5, 0.4)
    assert settings["steps"] == 1
    assert str(tmp_path) not in json.dumps(record)
    shown = json.loads(out.splitlines()[-1])["outputs"][0]["manifest"]
    assert shown == {k: v for k, v in record.items() if k != "linearsr"}


def test_depth_and_the_comment_of_a_camera(capsys, tmp_path):
    deep = np.full((4, 5, 3), 999, np.uint16)
    write_image(tmp_path / "deep.png", images.Image(deep))
    upscale(capsys, tmp_path / "deep.png", "-o", tmp_path / "a.png")
    upscale(capsys, "--repeat", tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0my holiday"
    commented = images.Image(deep.astype(np.uint8), exif=exif.tobytes())
    write_image(tmp_path / "c.jpg", commented)
    upscale(capsys, tmp_path / "c.jpg", "-o", tmp_path / "d.jpg")
    assert read_comment(tmp_path / "d.jpg") == "my holiday"
    assert json.loads((tmp_path / "d.jpg.json").read_text())["input"] == "c.jpg"
    upscale(capsys, "--repeat", tmp_path / "d.jpg", "-o", tmp_path / "e.jpg")
    assert (tmp_path / "d.jpg").read_bytes() == (tmp_path / "e.jpg").read_bytes()
    assert read_image(tmp_path / "e.jpg").pixels.shape == (16, 20, 3)


def test_what_cannot_be_repeated(capsys, photo, tmp_path):
    def refuse(*args):
        code, _, err = run(capsys, "upscale", *args, "-o", tmp_path / "x.png")
        assert code == 2
        return err

    assert "it has no manifest" in refuse("--repeat", photo)
    first = tmp_path / "out" / "first.png"
    upscale(capsys, photo, "-o", first, "--tags", "")
    other = tmp_path / "other.png"
    Image.new("RGB", (9, 6)).save(other)
    assert "is not the image" in refuse("--repeat", first, other)
    assert "photo.png is not beside" in refuse("--repeat", first)
    assert "name an image" in refuse()
    record = json.loads(read_comment(first))
    record["model"] = "mine"
    record["model_sha256"] = "0" * 64
    text = tmp_path / "changed.json"
    text.write_text(json.dumps(record))
    assert "another model, mine" in refuse("--repeat", text, photo)
    # Beside the output, but edited since.
    Image.new("RGB", (9, 6)).save(first.parent / "photo.png")
    assert "or has changed since" in refuse("--repeat", first)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "x"),
        ("steps", True),
        ("max_side", 1.5),
        ("quality", "x"),
        ("max_pixels", [1]),
        ("color_fix", "x"),
        ("color_fix", []),
        ("size", 7),
        ("size", [7]),
    ],
)
def test_settings_that_somebody_edited(capsys, photo, tmp_path, name, value):
    settings = {
        **dict.fromkeys(repeating._SETTINGS),
        "color_fix": "auto",
        "format": "png",
        name: value,
    }
    text = tmp_path / "edited.json"
    manifest = Manifest(
        "nano", "0" * 64, settings, input="photo.png", input_sha256=sha256(photo)
    )
    text.write_text(manifest.to_json())
    arguments = ["--repeat", text, photo, "-o", tmp_path / "x.png"]
    code, _, err = run(capsys, "upscale", *arguments)
    assert code == 2
    assert err.endswith(f"edited.json: its manifest has a wrong {name}\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "{}",
        '{"linearsr": 2}',
        '{"linearsr": 1, "model": 3, "model_sha256": "", "settings": {}, "tags": []}',
        '{"linearsr": 1, "model": "", "model_sha256": "", "settings": 1, "tags": []}',
        '{"linearsr": 1, "more": "", "model_sha256": "", "settings": {}, "tags": []}',
    ],
)
def test_damaged_manifests(text):
    with pytest.raises(ManifestError):
        Manifest.from_json(text)
