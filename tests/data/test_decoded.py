"""Decoded photographs: the same arrays as the folder's, mapped and not copied."""

import pickle

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.data import decoded, pipeline, sources
from linearsr_jax.training.batches import Photographs


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 50), (64, 33), (20, 90)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture
def file(folder, tmp_path):
    path = tmp_path / "photos.safetensors"
    count, rejected = decoded.write_decoded(folder, path)
    assert (count, list(rejected)) == (3, ["broken.png"])
    return path


def test_equals_the_folder(folder, file):
    ours, folders = (
        sources.open_source(place, min_size=32, cache_bytes=0)
        for place in (file, folder)
    )
    assert ours.names == folders.names == ("0.png", "1.png")
    assert ours.manifest.sizes == folders.manifest.sizes
    for one, other in zip(ours, folders, strict=True):
        np.testing.assert_array_equal(one, other)


def test_streams_are_the_same(folder, file):
    config = pipeline.PipelineConfig(crop_size=32, degradations={"camera": 1.0})
    ours, folders = (
        pipeline.make_dataset(
            pipeline.open_source(place, config), config, seed=1, batch_size=4
        )[2]
        for place in (file, folder)
    )
    for name in ("image_hr", "image_lr"):
        np.testing.assert_array_equal(ours[name], folders[name])


def test_pixels_are_a_view_of_the_file(file):
    store = decoded.DecodedStore(file)
    pixels = store.pixels("0.png")
    assert not pixels.flags.writeable
    assert np.shares_memory(pixels, store._map)
    assert len(pickle.dumps(store)) < 1000
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.pixels("0.png"), pixels)
    with pytest.raises(FileNotFoundError, match=r"9\.png"):
        store.pixels("9.png")


def test_a_file_cut_off_is_named(file):
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"photos\.safetensors: is cut off"):
        sources.open_source(file, min_size=1, cache_bytes=0)


def test_an_existing_file_is_kept(folder, file):
    with pytest.raises(FileExistsError, match="--overwrite"):
        decoded.write_decoded(folder, file)
    decoded.write_decoded(folder, file, overwrite=True)


def test_hosts_may_hold_either_form(folder, file):
    described = [
        Photographs(source.manifest, source, None, None, None).describe()
        for place in (file, folder)
        for source in [sources.open_source(place, min_size=32, cache_bytes=0)]
    ]
    assert described[0] == described[1]
    assert described[0].startswith("2, SHA-256")
