import io
import json
import logging
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.data import sources


def _noise(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def _save(path, seed=0, height=20, width=30, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_noise(seed, height, width)).save(path, **options)


def test_manifest_lists_good_files_and_reasons_against_the_others(tmp_path):
    _save(tmp_path / "b.PNG", 1)
    _save(tmp_path / "sub" / "a.jpeg", 2, height=40)
    _save(tmp_path / "tiny.png", height=10, width=100)
    _save(tmp_path / ".hidden.png")
    _save(tmp_path / ".thumbnails" / "x.png")
    (tmp_path / "letter.png").write_text("Dear reader, this is no picture.")
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not looked at")
    for suffix in ("png", "jpg", "webp"):
        _save(tmp_path / f"cut.{suffix}")
        data = (tmp_path / f"cut.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) * 2 // 3])
    manifest = sources.scan_folder(tmp_path, min_size=16)
    assert manifest.files == ("b.PNG", "sub/a.jpeg")
    assert manifest.sizes == ((30, 20), (30, 40))
    assert set(manifest.rejected) == {
        "tiny.png",
        "letter.png",
        "empty.tif",
        "cut.png",
        "cut.jpg",
        "cut.webp",
    }
    assert manifest.rejected["tiny.png"] == (
        "too small: 100x10, needs 16 pixels on each side"
    )
    assert "not an image" in manifest.rejected["letter.png"]
    assert all("\n" not in reason for reason in manifest.rejected.values())


def test_manifest_survives_json(tmp_path):
    _save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no")
    manifest = sources.scan_folder(tmp_path, min_size=1)
    stored = json.loads(json.dumps(manifest.to_json()))
    assert sources.Manifest.from_json(stored) == manifest
    with pytest.raises(ValueError, match="Not a manifest"):
        sources.Manifest.from_json({"files": ["a.png"]})


def test_errors_of_folders_name_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sources.scan_folder(tmp_path / "nowhere", min_size=1)
    with pytest.raises(ValueError, match="holds no image files"):
        sources.scan_folder(tmp_path, min_size=1)
    _save(tmp_path / "a.png", height=4, width=4)
    with pytest.raises(NotADirectoryError, match=r"a\.png"):
        sources.scan_folder(tmp_path / "a.png", min_size=1)
    with pytest.raises(ValueError, match=r"none of its 1 .*a\.png: too small: 4x4"):
        sources.scan_folder(tmp_path, min_size=8)


def test_pixel_types_become_rgb(tmp_path):
    rgb = _noise(0)
    gray16 = (np.arange(600, dtype=np.uint32).reshape(20, 30) * 109).astype(np.uint16)
    alpha = np.dstack([rgb, np.zeros((20, 30), np.uint8)])
    palette = Image.fromarray(rgb).quantize(16)
    Image.fromarray(rgb).convert("L").save(tmp_path / "gray.png")
    Image.fromarray(gray16).save(tmp_path / "gray16.png")
    Image.fromarray(gray16).save(tmp_path / "gray16.tiff")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    palette.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    Image.fromarray(rgb).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(rgb).convert("LA").save(tmp_path / "gray_alpha.png")
    Image.fromarray(rgb.astype(np.float32)[..., 0]).save(tmp_path / "float.tiff")
    manifest = sources.scan_folder(tmp_path, min_size=1)
    assert set(manifest.rejected) == {"float.tiff"}
    source = sources.FolderSource(tmp_path, manifest)
    images = {name: source[i] for i, name in enumerate(manifest.files)}
    for image in images.values():
        assert image.dtype == np.uint8
        assert image.shape == (20, 30, 3)
    expected = np.rint(gray16 / 257).astype(np.uint8)
    np.testing.assert_array_equal(
        images["gray16.png"], expected[..., None].repeat(3, 2)
    )
    np.testing.assert_array_equal(images["gray16.tiff"], images["gray16.png"])
    # Alpha is ignored, though every pixel is fully transparent.
    np.testing.assert_array_equal(images["alpha.png"], rgb)
    np.testing.assert_array_equal(images["palette.png"], palette.convert("RGB"))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: rotate by 270 degrees to see it.
    Image.fromarray(_noise(0)).save(tmp_path / "a.png", exif=exif)
    manifest = sources.scan_folder(tmp_path, min_size=1)
    assert manifest.sizes == ((20, 30),)
    image = sources.FolderSource(tmp_path, manifest)[0]
    np.testing.assert_array_equal(image, np.rot90(_noise(0), -1))


def _three(tmp_path, **options):
    for i in range(3):
        _save(tmp_path / f"{i}.png", i)
    manifest = sources.scan_folder(tmp_path, min_size=1)
    return sources.FolderSource(tmp_path, manifest, **options)


def test_lost_files_are_replaced_by_the_next_and_logged_once(tmp_path, caplog):
    source = _three(tmp_path)
    (tmp_path / "1.png").unlink()
    _save(tmp_path / "2.png", 2, height=50)  # Readable, but another picture.
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for i in range(3):
                np.testing.assert_array_equal(source[i], _noise(0))
    assert source.replaced["1.png"] == "file not found"
    assert "size is now 30x50, was 30x20" in source.replaced["2.png"]
    assert len(caplog.records) == 2
    assert "1.png" in caplog.text


def test_all_files_lost_is_an_error(tmp_path):
    source = _three(tmp_path)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"gone")
    with pytest.raises(RuntimeError, match="none of the 3 files"):
        source[1]


def test_cache_is_bounded_and_drops_the_least_recently_used(tmp_path, monkeypatch):
    source = _three(tmp_path, cache_bytes=2 * 20 * 30 * 3)
    read = []
    read_rgb = sources.read_rgb
    monkeypatch.setattr(
        sources, "read_rgb", lambda path: read.append(path.name) or read_rgb(path)
    )
    for i in (0, 1, 0, 2, 0, 1):
        source[i]
    assert read == ["0.png", "1.png", "2.png", "1.png"]
    with pytest.raises(ValueError, match="read-only"):
        source[0][:] = 0


def test_pickle_leaves_the_cache_behind(tmp_path):
    source = _three(tmp_path)
    empty = len(pickle.dumps(source))
    first = source[0]
    data = pickle.dumps(source)
    assert len(data) == empty
    np.testing.assert_array_equal(pickle.loads(data)[0], first)


def test_threads_read_the_right_images(tmp_path):
    source = _three(tmp_path, cache_bytes=2 * 20 * 30 * 3)
    wrong = []

    def read(start):
        for i in range(60):
            k = (start + i) % 3
            if not np.array_equal(source[k], _noise(k)):
                wrong.append(k)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert source._cached_bytes <= source.cache_bytes
    assert source._cached_bytes == sum(x.nbytes for x in source._cache.values())


def test_index_out_of_range_and_empty_manifest(tmp_path):
    source = _three(tmp_path)
    with pytest.raises(IndexError):
        source[3]
    with pytest.raises(ValueError, match="lists no files"):
        sources.FolderSource(tmp_path, sources.Manifest((), ()))


def test_noise_survives_png():
    # The other tests compare with _noise: PNG must be lossless for that.
    stream = io.BytesIO()
    Image.fromarray(_noise(5)).save(stream, "PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(stream)), _noise(5))
