"""Pairs by name, rows per method."""

import numpy as np
import pytest
from PIL import Image

from linearsr_jax import evaluate


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("HR", "LR_bicubic_x4"):
        (tmp_path / name).mkdir()
    for i in range(2):
        hr = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        hr = hr.resize((16, 12)).resize((64, 48), Image.Resampling.BICUBIC)
        hr.save(tmp_path / "HR" / f"{i}.png")
        hr.resize((16, 12), Image.Resampling.BICUBIC).save(
            tmp_path / "LR_bicubic_x4" / f"{i}.bmp"
        )
    return tmp_path


def test_rows_per_method_and_image(data):
    perfect = {
        (12, 16): np.stack(
            [np.asarray(Image.open(data / "HR" / f"{i}.png")) for i in range(2)]
        )
    }
    images = iter(perfect[(12, 16)])
    rows = evaluate.evaluate_dataset(data, {"oracle": lambda _: next(images)}, ["psnr"])
    assert list(rows) == ["bicubic", "bicubic+unsharp", "oracle"]
    assert [row["image"] for row in rows["oracle"]] == ["0.png", "1.png"]
    # 10 log10(1 / 1e-8): the protocol's PSNR of equal images.
    assert all(row["psnr"] == pytest.approx(80) for row in rows["oracle"])
    assert all(row["psnr"] < 60 for row in rows["bicubic"])


def test_folders_against_each_other(data):
    rows = evaluate.evaluate_pairs(data / "HR", data / "HR", ["psnr", "ssim"])
    assert [row["ssim"] for row in rows["HR"]] == [pytest.approx(1)] * 2


def test_lonely_image_is_an_error(data):
    (data / "HR" / "1.png").rename(data / "HR" / "2.png")
    with pytest.raises(evaluate.EvaluationError, match=r"1: in only one of"):
        evaluate.evaluate_dataset(data, {}, ["psnr"])


def test_wrong_size_is_an_error(data):
    Image.new("RGB", (60, 48)).save(data / "HR" / "0.png")
    with pytest.raises(evaluate.EvaluationError, match="is 60x48, 4x its LR"):
        evaluate.evaluate_dataset(data, {}, ["psnr"])
    with pytest.raises(evaluate.EvaluationError, match="16x12"):
        evaluate.evaluate_pairs(data / "HR", data / "LR_bicubic_x4", ["psnr"])


def test_folders_must_be_there_once(data):
    (data / "lr_2").mkdir()
    with pytest.raises(evaluate.EvaluationError, match="found 2"):
        evaluate.find_folders(data)
    with pytest.raises(evaluate.EvaluationError, match="no such folder"):
        evaluate.find_folders(data / "absent")


def test_published_baselines(shared):
    # The means of benchmarks/README.md over RealSR, here on its first ten images
    # through our own metrics would not be published; so all hundred.
    rows = evaluate.evaluate_dataset(shared / "benchmarks" / "RealSR", {}, ["psnr"])
    means = [np.mean([row["psnr"] for row in rows[name]]) for name in rows]
    np.testing.assert_allclose(means, [27.11, 26.79], atol=0.005)
