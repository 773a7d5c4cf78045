import errno
import json
import logging
import pathlib
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.core import image_io
from linearsr_jax.data import pipeline, sources, tfds_store
from linearsr_jax.data.folder import FolderStore
from linearsr_jax.data.manifest import Manifest
from linearsr_jax.data.prepare import pack_folder
from linearsr_jax.data.tfds_builder import prepare_dataset
from tests.data.noise_photos import cut, noise, save


def _open(location, cache_bytes=1 << 20, **options):
    return sources.open_source(location, min_size=1, cache_bytes=cache_bytes, **options)


def _three(folder, **options):
    for i in range(3):
        save(folder / f"{i}.png", i)
    return _open(folder, **options)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The same photographs in the three forms: of three formats, one turned."""
    root = tmp_path_factory.mktemp("forms")
    exif = Image.Exif()
    exif[0x0112] = 6
    # In the order of bytes capitals come before small letters.
    save(root / "train" / "B.jpg", 1, 60, 70, exif=exif)
    save(root / "train" / "a" / "c.webp", 2, 50, 90)
    save(root / "train" / "a.png", 3, 64, 48)
    save(root / "train" / "z.png", 4, 8, 100)  # Too small for the samples.
    (root / "photos.jsonl").write_text(
        json.dumps({"file": "train/a.png", "tags": ["rose", "leaf"]})
    )
    packed = root / "packed.safetensors"
    pack_folder(root / "train", packed)
    prepare_dataset("photos", root, root / "tfds")
    dataset = root / "tfds" / "linearsr_photos" / "photos" / "1.0.0"
    return {"folder": root / "train", "packed": packed, "tfds": dataset}


def test_the_three_forms_give_the_same_photographs(forms):
    opened = {name: _open(path) for name, path in forms.items()}
    for source in opened.values():
        assert source.names == ("B.jpg", "a.png", "a/c.webp", "z.png")
        assert source.tags == ((), ("rose", "leaf"), (), ())
        assert source.manifest.sizes == ((60, 70), (48, 64), (90, 50), (100, 8))
        for i, name in enumerate(source.names):
            expected = image_io.read_image(forms["folder"] / name)
            np.testing.assert_array_equal(source[i], expected.pixels)
    split = _open(forms["tfds"] / "train")
    assert split.manifest == opened["folder"].manifest


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_three_forms_give_the_same_samples(forms, num_workers):
    config = pipeline.PipelineConfig(crop_size=32)
    streams = []
    for path in forms.values():
        source = pipeline.open_source(path, config)
        assert list(source.manifest.rejected) == ["z.png"]
        dataset = pipeline.make_dataset(source, config, seed=0, batch_size=4)
        iterator = pipeline.make_iterator(dataset, num_workers=num_workers)
        streams.append([next(iterator) for _ in range(4)])
        iterator.close()
    for other in streams[1:]:
        for batch, expected in zip(other, streams[0], strict=True):
            for name in ("image_hr", "image_lr"):
                np.testing.assert_array_equal(batch[name], expected[name])


def test_a_run_can_go_on_from_another_form(forms):
    manifest = _open(forms["folder"]).manifest
    manifest = Manifest.from_json(json.loads(json.dumps(manifest.to_json())))
    # Fewer and in another order than there: the manifest decides.
    manifest = Manifest(manifest.files[2:0:-1], manifest.sizes[2:0:-1])
    for path in forms.values():
        source = _open(path, manifest=manifest)
        assert source.names == ("a/c.webp", "a.png")
        assert source.tags == ((), ("rose", "leaf"))
        np.testing.assert_array_equal(source[1], noise(3, 64, 48))
        lost = Manifest(("gone.png", "a.png"), ((48, 64), (48, 64)))
        source = _open(path, manifest=lost)
        np.testing.assert_array_equal(source[0], noise(3, 64, 48))
        assert source.replaced == {"gone.png": "file not found"}


def test_places_without_photographs_are_named(forms, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _open(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a\.txt: not a file of packed"):
        _open(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"no split 'test'; it has train"):
        _open(forms["tfds"] / "test")
    for name in ("dataset_info.json", "features.json"):
        data = (forms["tfds"] / name).read_bytes()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="without an index of photographs"):
        _open(tmp_path)


def test_lost_files_are_replaced_by_the_next_and_logged_once(tmp_path, caplog):
    source = _three(tmp_path)
    (tmp_path / "1.png").unlink()
    save(tmp_path / "2.png", 2, height=50)  # Readable, but another picture.
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for i in range(3):
                np.testing.assert_array_equal(source[i], noise(0))
    assert source.replaced["1.png"] == "file not found"
    assert "size is now 30x50, was 30x20" in source.replaced["2.png"]
    assert len(caplog.records) == 2
    assert "1.png" in caplog.text
    save(tmp_path / "1.png", 1)  # Back, but the stream must not notice.
    np.testing.assert_array_equal(source[1], noise(0))


def test_what_is_cut_off_is_replaced_the_same_in_any_order(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", i)
    for i in (1, 2, 4):
        cut(tmp_path / f"{i}.png")
    expected = (0, 3, 3, 3, 0)
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 1, 2, 0)):
        for cache_bytes in (0, 1 << 20):
            source = _open(tmp_path, cache_bytes)
            assert len(source) == 5
            for i in order:
                np.testing.assert_array_equal(source[i], noise(expected[i]))
            assert "cannot be decoded" in source.replaced["1.png"]


def test_a_photograph_turned_since_is_the_same(tmp_path):
    # PNG may hold its orientation behind the pixels, which the header does not tell.
    save(tmp_path / "a.png", 7)
    source = _open(tmp_path, manifest=Manifest(("a.png",), ((20, 30),)))
    np.testing.assert_array_equal(source[0], noise(7))


def test_failures_that_may_pass_replace_nothing(tmp_path, monkeypatch):
    source = _three(tmp_path, cache_bytes=0)

    def fail(self, name):
        raise OSError(errno.EMFILE, "Too many open files")

    def run_out(*args, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "read", fail)
        with pytest.raises(
            OSError, match=r"1\.png cannot be read at the moment.*Too many"
        ):
            source[1]
    with monkeypatch.context() as patch:
        patch.setattr(image_io, "decode_image", run_out)
        with pytest.raises(MemoryError):
            source[1]
    assert source.replaced == {}
    np.testing.assert_array_equal(source[1], noise(1))


def test_damaged_records_are_replaced(tmp_path):
    for i in range(3):
        save(tmp_path / "train" / f"{i}.png", i, 100, 100)
    prepare_dataset("photos", tmp_path, tmp_path)
    dataset = tmp_path / "linearsr_photos" / "photos" / "1.0.0"
    (records,) = dataset.glob("*array_record*")
    data = bytearray(records.read_bytes())
    middle = data.index((tmp_path / "train" / "1.png").read_bytes()[1000:2000])
    data[middle] ^= 1
    records.write_bytes(data)
    source = _open(dataset)
    for i, expected in enumerate((0, 2, 2)):
        np.testing.assert_array_equal(source[i], noise(expected, 100, 100))
    assert "Corrupted" in source.replaced["1.png"]
    records.unlink()
    with pytest.raises(OSError, match=r"0\.png cannot be read at the moment"):
        _open(dataset)[0]


def test_all_files_lost_is_an_error(tmp_path):
    source = _three(tmp_path)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"gone")
    with pytest.raises(RuntimeError, match="none of the 3 files"):
        source[1]


def test_cache_is_bounded_and_drops_the_least_recently_used(tmp_path, monkeypatch):
    source = _three(tmp_path, cache_bytes=2 * 20 * 30 * 3)
    names = []
    read = FolderStore.read
    monkeypatch.setattr(
        FolderStore, "read", lambda self, name: names.append(name) or read(self, name)
    )
    for i in (0, 1, 0, 2, 0, 1):
        source[i]
    assert names == ["0.png", "1.png", "2.png", "1.png"]
    with pytest.raises(ValueError, match="read-only"):
        source[0][:] = 0


@pytest.mark.parametrize("form", ["folder", "packed", "tfds"])
def test_pickle_leaves_the_cache_and_open_files_behind(forms, form):
    source = _open(forms[form])
    empty = len(pickle.dumps(source))
    first = source[0]
    data = pickle.dumps(source)
    assert len(data) == empty
    np.testing.assert_array_equal(pickle.loads(data)[0], first)


@pytest.mark.parametrize("form", ["folder", "packed", "tfds"])
def test_threads_read_the_right_images(forms, form):
    names = _open(forms["folder"]).names
    expected = [image_io.read_image(forms["folder"] / name).pixels for name in names]
    source = _open(forms[form], cache_bytes=expected[0].nbytes + expected[1].nbytes)
    wrong = []

    def read(start):
        for i in range(40):
            k = (start + i) % 4
            if not np.array_equal(source[k], expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert source._cached_bytes <= source.cache_bytes
    assert source._cached_bytes == sum(x.nbytes for x in source._cache.values())


def test_wrong_arguments_are_named(tmp_path):
    source = _three(tmp_path)
    with pytest.raises(IndexError):
        source[3]
    with pytest.raises(ValueError, match="lists no files"):
        _open(tmp_path, manifest=Manifest((), ()))
    with pytest.raises(ValueError, match="cache_bytes"):
        _open(tmp_path, cache_bytes=-1)


def test_find_dataset_needs_the_info_file(forms, tmp_path, monkeypatch):
    assert tfds_store.find_dataset(forms["folder"]) is None
    assert tfds_store.find_dataset(tmp_path / "nowhere") is None
    dataset = forms["tfds"]
    assert tfds_store.find_dataset(dataset) == (dataset, "train")
    assert tfds_store.find_dataset(dataset / "val") == (dataset, "val")
    monkeypatch.chdir(dataset.parent)
    assert tfds_store.find_dataset("1.0.0") == (dataset, "train")
    assert tfds_store.find_dataset(pathlib.Path("1.0.0/val")) == (dataset, "val")
