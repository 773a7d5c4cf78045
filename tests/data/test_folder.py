import json

import pytest

from linearsr_jax.data import folder, manifest
from tests.data.noise_photos import save

NOT_AN_IMAGE = (
    "is not an image that can be read here; "
    "give a PNG, JPEG, WebP, BMP, TIFF or AVIF file"
)


def _write_tags(path, *photos):
    path.write_text("".join(json.dumps(photo) + "\n" for photo in photos))


def test_manifest_lists_good_files_and_reasons_against_the_others(tmp_path):
    save(tmp_path / "b.PNG", 1)
    save(tmp_path / "sub" / "a.jpeg", 2, height=40)
    save(tmp_path / "tiny.png", height=10, width=100)
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".thumbnails" / "x.png")
    (tmp_path / "letter.png").write_text("Dear reader, this is no picture.")
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "notes.txt").write_text("not looked at")
    found = folder.FolderStore(tmp_path).scan(min_size=16)
    assert found.files == ("b.PNG", "sub/a.jpeg")
    assert found.sizes == ((30, 20), (30, 40))
    assert found.rejected == {
        "empty.tif": "is empty (0 bytes); copy the file again",
        "letter.png": NOT_AN_IMAGE,
        "lost.png": "no such file; check the name",
        "tiny.png": "too small: 100x10, needs 16 pixels on each side",
    }


def test_manifest_survives_json(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no")
    found = folder.FolderStore(tmp_path).scan(min_size=1)
    stored = json.loads(json.dumps(found.to_json()))
    assert manifest.Manifest.from_json(stored) == found
    with pytest.raises(ValueError, match="Not a manifest"):
        manifest.Manifest.from_json({"files": ["a.png"]})


def test_errors_of_folders_name_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder.FolderStore(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no images in or below this folder"):
        folder.FolderStore(tmp_path).scan(min_size=1)
    save(tmp_path / "a.png", height=4, width=4)
    with pytest.raises(NotADirectoryError, match=r"a\.png"):
        folder.FolderStore(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"none of its 1 .*a\.png: too small: 4x4"):
        folder.FolderStore(tmp_path).scan(min_size=8)


def test_tags_are_read_from_beside_or_above_the_folder(tmp_path, monkeypatch):
    _write_tags(
        tmp_path / "photos.jsonl",
        {"file": "train/a.png", "tags": ["rose", "red leaf"], "licence": "CC0"},
        {"file": "train/sub/b.png"},
        {"file": "val/a.png", "tags": ["dog"]},
    )
    for name in ("train/a.png", "train/sub/b.png", "val/a.png", "training/a.png"):
        save(tmp_path / name)
    assert folder.FolderStore(tmp_path).tags["train/a.png"] == ("rose", "red leaf")
    train = {"a.png": ("rose", "red leaf"), "sub/b.png": ()}
    assert folder.FolderStore(tmp_path / "train").tags == train
    assert folder.FolderStore(tmp_path / "training").tags == {}
    monkeypatch.chdir(tmp_path / "train")
    assert folder.FolderStore(".").tags == train
    assert folder.FolderStore(tmp_path / "train" / "sub").tags == {}


@pytest.mark.parametrize(
    "line",
    [
        '{"tags": ["rose"]}',
        '{"file": "a.png", "tags": "rose"}',
        '{"file": "a.png", "tags": [1]}',
        '{"file": 1}',
        '["a.png"]',
        '{"file": "a.p',
    ],
)
def test_broken_tags_name_file_and_line(tmp_path, line):
    (tmp_path / "photos.jsonl").write_text('{"file": "b.png"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=r"photos\.jsonl, line 3: expected"):
        folder.FolderStore(tmp_path)
