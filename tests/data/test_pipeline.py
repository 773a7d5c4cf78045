import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.data import degradations, pipeline, sources

BICUBIC = {"bicubic": 1.0}
SIZE = 48
COUNT = 5


def _photo(index):
    """Red names the photo, green and blue are the row and the column."""
    photo = np.zeros((SIZE, SIZE, 3), np.uint8)
    photo[..., 0] = 40 * index
    photo[..., 1] = 4 * np.arange(SIZE)[:, None]
    photo[..., 2] = 4 * np.arange(SIZE)
    return photo


def _upright(image):
    """Undoes the flips, which the ramps of `_photo` tell."""
    if np.ptp(image[:, 0, 1]) < np.ptp(image[0, :, 1]):
        image = image.transpose(1, 0, 2)
    if image[0, 0, 1] > image[-1, 0, 1]:
        image = image[::-1]
    return image[:, ::-1] if image[0, 0, 2] > image[0, -1, 2] else image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for i in range(COUNT):
        Image.fromarray(_photo(i)).save(root / f"{i}.png")
    return root


@pytest.fixture
def config():
    return pipeline.PipelineConfig(crop_size=16, scale_range=(0.5, 1.0))


def _dataset(folder, config, **options):
    options = {"seed": 3, "batch_size": 4} | options
    return pipeline.make_dataset(
        pipeline.open_source(folder, config), config, **options
    )


def _assert_same(batch, expected):
    assert set(batch) == set(expected) == {"image_hr", "image_lr"}
    for name in batch:
        np.testing.assert_array_equal(batch[name], expected[name])


def test_batches_have_the_promised_shapes(folder, config):
    batch = _dataset(folder, config)[0]
    assert batch["image_hr"].shape == (4, 16, 16, 3)
    assert batch["image_lr"].shape == (4, 4, 4, 3)
    assert batch["image_hr"].dtype == batch["image_lr"].dtype == np.uint8


def test_each_epoch_has_every_photo_in_another_order_and_crop(folder):
    config = pipeline.PipelineConfig(16, scale_range=(1, 1), degradations=BICUBIC)
    dataset = _dataset(folder, config, batch_size=COUNT)
    orders, corners = [], []
    for epoch in range(8):
        image_hr = dataset[epoch]["image_hr"]
        photos = image_hr[:, 0, 0, 0] // 40
        assert sorted(photos) == list(range(COUNT))
        orders.append(tuple(photos))
        first = _upright(image_hr[list(photos).index(0)])
        corners.append(tuple(first[0, 0]))
    assert len(set(orders)) >= 6
    assert len(set(corners)) >= 6


def test_seeds_give_different_streams(folder, config):
    a = _dataset(folder, config, seed=0)[0]["image_lr"]
    b = _dataset(folder, config, seed=1)[0]["image_lr"]
    assert not np.array_equal(a, b)


def test_start_batch_continues_the_stream(folder, config):
    whole = _dataset(folder, config)
    late = _dataset(folder, config, start_batch=7)
    for k in range(3):
        _assert_same(late[k], whole[7 + k])


def test_batch_size_does_not_change_samples(folder, config):
    small = _dataset(folder, config, batch_size=2)
    large = _dataset(folder, config, batch_size=4)
    np.testing.assert_array_equal(
        np.concatenate([small[2]["image_lr"], small[3]["image_lr"]]),
        large[1]["image_lr"],
    )


def test_standard_degrades_the_same_crops_otherwise(folder, config):
    light = _dataset(folder, config)[0]
    standard = _dataset(
        folder, dataclasses.replace(config, degradations={"standard": 1.0})
    )[0]
    np.testing.assert_array_equal(light["image_hr"], standard["image_hr"])
    assert not np.array_equal(light["image_lr"], standard["image_lr"])


def test_to_degrade_on_the_device_crops_come_with_plans(folder, config):
    on_device = dataclasses.replace(
        config, degrade_on="device", degradations={"bicubic": 1.0, "light": 1.0}
    )
    batches = [_dataset(folder, on_device)[k] for k in range(10)]
    for k, batch in enumerate(batches):
        assert batch.keys() == {"image_hr", "plan"}
        host = _dataset(folder, config)[k]
        np.testing.assert_array_equal(batch["image_hr"], host["image_hr"])
        assert batch["plan"]["kernels"].shape == (4, 3, 21, 21)
    is_bicubic = np.concatenate([batch["plan"]["is_bicubic"] for batch in batches])
    assert 8 < is_bicubic.sum() < 32
    seeds = np.concatenate([batch["plan"]["noise_seed"] for batch in batches])
    assert len(set(seeds)) == 40
    again = _dataset(folder, on_device, start_batch=9)[0]["plan"]
    for name, values in batches[9]["plan"].items():
        np.testing.assert_array_equal(again[name], values)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_out_the_same_batch(folder, config, process_count):
    whole = _dataset(folder, config, start_batch=2)
    shares = [range(p, 4, process_count) for p in range(process_count)]
    parts = [_dataset(folder, config, start_batch=2, share=share) for share in shares]
    for k in range(3):
        for share, part in zip(shares, parts, strict=True):
            expected = {name: x[list(share)] for name, x in whole[k].items()}
            _assert_same(part[k], expected)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_iterator_in_process_is_the_dataset(folder, config, prefetch):
    dataset = _dataset(folder, config)
    iterator = pipeline.make_iterator(dataset, prefetch=prefetch)
    for k in range(5):
        _assert_same(next(iterator), dataset[k])
    iterator.close()


def test_two_workers_give_the_same_stream(folder, config):
    dataset = _dataset(folder, config, start_batch=1, share=[1, 2])
    iterator = pipeline.make_iterator(dataset, num_workers=2)
    try:
        for k in range(5):
            _assert_same(next(iterator), dataset[k])
    finally:
        iterator.close()


def test_no_workers_need_no_parsed_flags(folder):
    # In a fresh interpreter: here another test may have parsed them.
    code = f"""
from absl import flags
from linearsr_jax.data import pipeline
config = pipeline.PipelineConfig(16)
source = pipeline.open_source({str(folder)!r}, config)
dataset = pipeline.make_dataset(source, config, seed=0, batch_size=2)
print(next(pipeline.make_iterator(dataset))["image_lr"].shape)
assert not flags.FLAGS.is_parsed()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 4, 4, 3)"


def test_crops_are_windows_of_the_photo():
    # Without flips, rows and columns go up by 4 per pixel over the drawn scale.
    config = pipeline.PipelineConfig(16, scale_range=(0.4, 0.8), degradations=BICUBIC)
    make = pipeline.MakePair(config)
    slopes = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pair = make.random_map(_photo(1), rng)
        image = _upright(pair["image_hr"]).astype(float)
        slope = np.diff(image[2:-2, :, 1], axis=0).mean()
        assert abs(np.diff(image[:, 2:-2, 2], axis=1).mean() - slope) < 0.2
        slopes.append(slope / 4)
        np.testing.assert_array_equal(
            pair["image_lr"], degradations.bicubic(pair["image_hr"])
        )
    # 1 / scale is within [1.25, 2.5].
    assert 1.2 < min(slopes) < 1.4
    assert 2.2 < max(slopes) < 2.6


def test_windows_stay_inside_small_photos():
    config = pipeline.PipelineConfig(16, scale_range=(0.1, 0.1))
    photo = _photo(1)[:16, :30]
    pair = pipeline.MakePair(config).random_map(photo, np.random.default_rng(0))
    # 160 pixels were asked for, 16 are there: an unscaled crop.
    image_hr = _upright(pair["image_hr"])
    left = int(image_hr[0, 0, 2]) // 4
    np.testing.assert_array_equal(image_hr, photo[:, left : left + 16])


def test_the_eight_flips_are_equally_frequent():
    config = pipeline.PipelineConfig(16, scale_range=(1, 1), degradations=BICUBIC)
    make = pipeline.MakePair(config)
    photo = _photo(1)[:16, :16]
    counts = {}
    for seed in range(400):
        image = make.random_map(photo, np.random.default_rng(seed))["image_hr"]
        counts[image.tobytes()] = counts.get(image.tobytes(), 0) + 1
    assert len(counts) == 8
    assert min(counts.values()) > 25


def test_each_sample_draws_its_degradation(folder):
    weights = {"bicubic": 0.5, "light": 0.5}
    config = pipeline.PipelineConfig(16, degradations=weights)
    batch = _dataset(folder, config, batch_size=100)[0]
    is_bicubic = [
        np.array_equal(degradations.bicubic(hr), lr)
        for hr, lr in zip(batch["image_hr"], batch["image_lr"], strict=True)
    ]
    assert 30 < sum(is_bicubic) < 70


def test_lost_file_does_not_stop_the_stream(folder, config, tmp_path):
    for i in range(2):
        Image.fromarray(_photo(i)).save(tmp_path / f"{i}.png")
    source = pipeline.open_source(tmp_path, config)
    (tmp_path / "1.png").unlink()
    dataset = pipeline.make_dataset(source, config, seed=0, batch_size=4)
    assert (dataset[0]["image_hr"][..., 0] == 0).all()
    assert list(source.replaced) == ["1.png"]


def test_a_stored_manifest_keeps_sample_numbers(folder, config, tmp_path):
    for i in range(3):
        Image.fromarray(_photo(i)).save(tmp_path / f"{i}.png")
    source = pipeline.open_source(tmp_path, config)
    before = pipeline.make_dataset(source, config, seed=0, batch_size=4)[3]
    Image.fromarray(_photo(4)).save(tmp_path / "0_new.png")
    source = pipeline.open_source(tmp_path, config, source.manifest)
    after = pipeline.make_dataset(source, config, seed=0, batch_size=4)[3]
    _assert_same(after, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": [3, 2]}, "share must be increasing"),
        ({"share": [4]}, "within a batch of 4"),
        ({"share": []}, "share must be"),
        ({"start_batch": -1}, "start_batch"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments_are_named(folder, config, options, message):
    with pytest.raises(ValueError, match=message):
        _dataset(folder, config, **options)


def test_wrong_configs_are_named(folder):
    with pytest.raises(ValueError, match="multiple of 4"):
        pipeline.PipelineConfig(18)
    with pytest.raises(ValueError, match="scale_range"):
        pipeline.PipelineConfig(16, scale_range=(0.5, 1.5))
    with pytest.raises(ValueError, match="'host' or 'device', got 'gpu'"):
        pipeline.PipelineConfig(16, degrade_on="gpu")
    with pytest.raises(ValueError, match=r"degradations\.light must be at least 0"):
        pipeline.PipelineConfig(16, degradations={"light": -1.0})
    source = sources.open_source(folder, min_size=16, cache_bytes=0)
    with pytest.raises(ValueError, match=r"0\.png: 48x48 is smaller"):
        pipeline.make_dataset(source, pipeline.PipelineConfig(64), seed=0, batch_size=1)
