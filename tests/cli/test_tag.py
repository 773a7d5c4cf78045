"""`linearsr tag`: files, folders, caches, exit codes."""

import json

import numpy as np
import pytest
from PIL import Image

from linearsr_jax import tagging
from linearsr_jax.tagging.cache import load_tag_cache
from tests.cli.running import run


def test_none_on_a_folder_with_a_broken_file(capsys, photos):
    code, out, err = run(capsys, "tag", photos, "--tagger", "none", "--json")
    assert code == 1
    assert "broken.png" in err
    assert "1 of 4 images failed" in err
    assert json.loads(out.splitlines()[-1]) == {
        "images": [{"file": str(photos / f"{i}.png"), "tags": []} for i in range(3)]
    }


def test_tags_are_printed(capsys, photos, monkeypatch):
    def tagger(image):
        return [("rose", 0.987), ("leaf", 0.5)]

    monkeypatch.setattr(tagging, "load_tagger", lambda name: tagger)
    code, out, err = run(capsys, "tag", photos / "0.png")
    assert (code, err) == (0, "")
    assert out == f"{photos / '0.png'}: rose 0.99, leaf 0.50\n"


def test_silence_is_printed_too(capsys, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    code, out, _ = run(capsys, "tag", tmp_path / "black.png", "--tagger", "none")
    assert (code, out) == (0, f"{tmp_path / 'black.png'}: -\n")


def test_cache(capsys, photos, tmp_path):
    folder, cache = tmp_path / "in", tmp_path / "tags.jsonl"
    (folder / "deep").mkdir(parents=True)
    for i in range(2):
        (folder / "deep" / f"{i}.png").write_bytes((photos / f"{i}.png").read_bytes())
    options = ["--tagger", "none", "--cache", cache, "--json"]
    code, out, _ = run(capsys, "tag", folder, *options)
    assert code == 0
    assert load_tag_cache(cache) == {"deep/0.png": [], "deep/1.png": []}
    files = [image["file"] for image in json.loads(out.splitlines()[-1])["images"]]
    assert files == [str(folder / "deep" / f"{i}.png") for i in range(2)]
    code, out, _ = run(capsys, "tag", folder, *options[:-1])
    assert (code, out) == (0, f"{cache}: tags of 2 images\n")
    code, _, err = run(capsys, "tag", folder, *options, "--lr")
    assert code == 1
    assert "made by none 1 hr, not none 1 lr" in err
    (folder / "broken.jpg").write_text("no image")
    code, out, err = run(capsys, "tag", folder, *options)
    assert (code, len(json.loads(out.splitlines()[-1])["images"])) == (1, 2)
    assert "broken.jpg" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x.png", "--cache", "c.jsonl"], "--cache takes one folder"),
        (["x.png", "--lr"], "--lr needs --cache"),
    ],
)
def test_wrong_usage(capsys, args, message):
    code, _, err = run(capsys, "tag", *args)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no.png", "--tagger", "none"], "no.png: no such file"),
        (["--tagger", "clip"], "no tagger 'clip'; use light, ram:FOLDER or none"),
        (["--tagger", "ram:nowhere"], "nowhere/config.json: No such file"),
    ],
)
def test_failures(capsys, photos, args, message):
    if args[0] == "--tagger":
        args = [photos, *args]
    code, _, err = run(capsys, "tag", *args)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_light_is_the_default(capsys, shared):
    bird = shared / "photos" / "val" / "perched-osprey.webp"
    _, out, _ = run(capsys, "tag", bird, "--json")
    ((tag, score),) = json.loads(out)["images"][0]["tags"]
    found = tagging.load_tagger("light")(np.asarray(Image.open(bird)))
    assert [tag] == [name for name, _ in found] == ["bird"]
    assert score == pytest.approx(found[0][1], abs=1e-4)


def test_what_is_missing_stops_nothing(capsys, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    inputs = (tmp_path / "nope.png", photos / "0.png", tmp_path / "empty")
    code, out, err = run(capsys, "tag", *inputs, "--tagger", "none")
    assert (code, out) == (1, f"{photos / '0.png'}: -\n")
    assert "nope.png: no such file" in err
    assert "empty: no images in this folder" in err
    assert err.endswith("or add --recursive\n")
    _, _, err = run(capsys, "tag", inputs[2], "--tagger", "none", "--recursive")
    assert "in or below this folder" in err
    assert err.endswith("; name another\n")
