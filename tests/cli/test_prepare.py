"""`linearsr prepare`; what it writes is read back in test_sources.py."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from linearsr_jax.data.layouts import DATASETS
from linearsr_jax.data.packed import PackedStore
from tests.cli.running import run
from tests.data.noise_photos import cut, noise, save


@pytest.fixture
def photos(tmp_path):
    """Folders train and val; a file of each is unusable."""
    for i in range(3):
        save(tmp_path / "photos" / "train" / f"{i}.png", i)
    cut(tmp_path / "photos" / "train" / "1.png")
    save(tmp_path / "photos" / "val" / "a.png", 9)
    (tmp_path / "photos" / "val" / "letter.jpg").write_text("no picture")
    return tmp_path / "photos"


def test_packed_leaves_out_and_names_what_cannot_be_decoded(photos, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    code, text, errors = run(capsys, "prepare", "packed", photos, out)
    assert code == 0
    assert "out.safetensors: 3 photographs" in text
    assert "left out train/1.png: cannot be decoded" in errors
    assert "left out val/letter.jpg: is not an image" in errors
    manifest = PackedStore(out).scan(min_size=1)
    assert manifest.files == ("train/0.png", "train/2.png", "val/a.png")


def test_nothing_is_overwritten_unasked(photos, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    code, _, errors = run(capsys, "prepare", "packed", photos, out)
    assert code == 1
    assert errors.strip() == f"linearsr: {out}: exists; --overwrite replaces it."
    assert out.read_text() == "precious"
    assert run(capsys, "prepare", "packed", photos, out, "--overwrite")[0] == 0
    assert len(PackedStore(out).scan(min_size=1)) == 3

    assert run(capsys, "prepare", "tfds", photos, tmp_path)[0] == 0
    dataset = tmp_path / "linearsr_photos" / "photos" / "1.0.0"
    before = (dataset / "metadata.json").read_bytes()
    save(photos / "train" / "new.png")
    code, _, errors = run(capsys, "prepare", "tfds", photos, tmp_path)
    assert code == 1
    assert errors.strip() == f"linearsr: {dataset}: exists; --overwrite replaces it."
    assert (dataset / "metadata.json").read_bytes() == before
    code, text, _ = run(capsys, "prepare", "tfds", photos, tmp_path, "--overwrite")
    assert code == 0
    assert f"{dataset}/train: 3 photographs" in text


def test_tfds_has_the_bytes_and_what_is_known_of_them(photos, tmp_path, capsys):
    (photos / "photos.jsonl").write_text('{"file": "val/a.png", "tags": ["dog"]}')
    code, text, errors = run(capsys, "prepare", "tfds", photos, tmp_path / "data")
    assert code == 0
    assert "left out train/1.png: cannot be decoded" in errors
    assert "left out val/letter.jpg: is not an image" in errors
    dataset = tmp_path / "data" / "linearsr_photos" / "photos" / "1.0.0"
    assert text.split() == [
        *(f"{dataset}/train:", "2", "photographs"),
        *(f"{dataset}/val:", "1", "photographs"),
    ]
    # As anyone who has TFDS reads it; its own decoder too.
    builder = tfds.builder_from_directory(dataset)
    (example,) = builder.as_data_source(
        "val", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert example["image"] == (photos / "val" / "a.png").read_bytes()
    assert example["file"] == b"a.png"
    assert (example["width"], example["height"]) == (30, 20)
    assert list(example["tags"]) == [b"dog"]
    decoded = builder.as_data_source("train")[1]["image"]
    np.testing.assert_array_equal(decoded, noise(2))
    # Nothing else is left behind.
    hidden = [p.name for p in (tmp_path / "data").iterdir()]
    assert hidden == ["linearsr_photos"]


@pytest.mark.parametrize("name", DATASETS)
def test_each_layout_is_found_and_named_where_it_is_missing(name, tmp_path, capsys):
    root, data = tmp_path / "root", tmp_path / "data"
    root.mkdir()
    args = ("tfds", root, data, "--dataset", name)
    code, _, errors = run(capsys, "prepare", *args)
    assert code == 1
    for folder in DATASETS[name].splits.values():
        assert f"{folder}/" in errors
    split, folder = next(iter(DATASETS[name].splits.items()))
    save(root / folder / "00000" / "1.png", 1)
    code, text, _ = run(capsys, "prepare", *args)
    assert code == 0
    assert f"linearsr_photos/{name}/1.0.0/{split}: 1 photographs" in text


@pytest.mark.parametrize("form", ["packed", "tfds"])
def test_nothing_usable_writes_nothing(form, photos, tmp_path, capsys):
    for path in (photos / "train").iterdir():
        path.write_bytes(b"no picture")
    source = photos / "train" if form == "packed" else photos
    code, _, errors = run(capsys, "prepare", form, source, tmp_path / "out")
    assert code == 1
    assert errors.count("\n") == 1
    assert "no photograph" in errors
    assert not any((tmp_path / "out").rglob("dataset_info.json"))
    assert not (tmp_path / "out").is_file()


def test_killed_half_way_leaves_nothing_that_looks_finished(tmp_path, capsys):
    save(tmp_path / "in" / "train" / "0.png")
    fifo = tmp_path / "in" / "train" / "1.png"
    os.mkfifo(fifo)  # Reading it waits for ever.
    out = tmp_path / "out"
    command = [sys.executable, "-m", "linearsr_jax", "prepare"]
    child = subprocess.Popen([*command, "tfds", str(tmp_path / "in"), str(out)])
    try:
        while True:
            try:
                # Possible only while somebody reads.
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
                break
            except OSError:
                assert child.poll() is None
                time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert [path for path in out.iterdir() if path.name[0] != "."] == []
    fifo.unlink()
    assert run(capsys, "prepare", "tfds", tmp_path / "in", out)[0] == 0


def test_wrong_usage(tmp_path, capsys):
    assert run(capsys, "prepare")[0] == 2
    assert run(capsys, "prepare", "packed", tmp_path, "x", "--max-side", "0")[0] == 2
    assert (
        run(capsys, "prepare", "tfds", tmp_path, tmp_path, "--dataset", "imagenet")[0]
        == 2
    )
    code, _, errors = run(
        capsys, "prepare", "packed", tmp_path / "nowhere", tmp_path / "x"
    )
    assert (code, errors.count("\n")) == (1, 1)
    code, _, errors = run(capsys, "prepare", "packed", tmp_path, tmp_path / "no" / "x")
    assert (code, "make it first" in errors) == (1, True)
