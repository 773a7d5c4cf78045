import os
import pickle
import stat

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from linearsr_jax.data import packed
from linearsr_jax.data.checking import Photo

# Not in the order of names.
PHOTOS = (
    Photo("Ä/a.png", 20, 10, (), b"\0\xff" * 100),
    Photo("b.jpg", 40, 30, ("rose", "röd"), b"bytes of b"),
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "photos.safetensors"
    assert packed.write_packed(path, iter(PHOTOS)) == 2
    return path


def test_bytes_sizes_and_tags_come_back(path):
    store = packed.PackedStore(path)
    for photo in PHOTOS:
        assert store.read(photo.file) == photo.data
    assert store.tags == {"b.jpg": ("rose", "röd"), "Ä/a.png": ()}
    manifest = store.scan(min_size=10)
    assert manifest.files == ("b.jpg", "Ä/a.png")
    assert manifest.sizes == ((40, 30), (20, 10))
    assert list(store.scan(min_size=11).rejected) == ["Ä/a.png"]
    with pytest.raises(FileNotFoundError, match=r"c\.jpg"):
        store.read("c.jpg")


def test_any_safetensors_reader_sees_the_files(path):
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == ["b.jpg", "Ä/a.png"]
        assert file.get_tensor("b.jpg").dtype == np.uint8


def test_files_have_the_usual_permissions(path):
    os.umask(mask := os.umask(0))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_pickle_does_not_carry_the_photographs(path):
    store = packed.PackedStore(path)
    store.read("b.jpg")
    data = pickle.dumps(store)
    assert b"bytes of b" not in data
    assert pickle.loads(data).read("b.jpg") == b"bytes of b"


def test_failure_half_way_leaves_nothing(path, tmp_path, monkeypatch):
    def fail():
        yield PHOTOS[0]
        raise KeyboardInterrupt

    # What SIGINT does, unless it is ignored as in a shell's background.
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed.write_packed(path, fail())
    with pytest.raises(ValueError, match="no photograph"):
        packed.write_packed(tmp_path / "b.safetensors", [])
    with pytest.raises(OSError, match="nowhere"):
        packed.write_packed(tmp_path / "nowhere" / "b.safetensors", PHOTOS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupt)
        packed.write_packed(path, PHOTOS[:1])
    assert list(tmp_path.iterdir()) == [path]
    assert packed.PackedStore(path).scan(min_size=1).files == ("b.jpg", "Ä/a.png")


def test_other_files_are_refused(path, tmp_path):
    data = path.read_bytes()
    for broken in (b"", data[:5], data[:100], data[:-1], b"no tensors" * 9):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"photos\.safetensors: not a file of"):
            packed.PackedStore(path)
    save_file({"weights": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="that are not photographs"):
        packed.PackedStore(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        packed.PackedStore(tmp_path / "nowhere")
