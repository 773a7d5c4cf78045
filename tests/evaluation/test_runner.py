"""Images belong together by name; rows per method; what has no reference."""

import csv

import numpy as np
import pytest
from PIL import Image

from linearsr_jax.evaluation.baselines import BASELINES, bicubic
from linearsr_jax.evaluation.folders import (
    EvaluationError,
    find_folders,
    match_images,
)
from linearsr_jax.evaluation.runner import MissingReferenceError, evaluate
from linearsr_jax.metrics import METRICS, Metric


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


def folders(data):
    return {"hr": data / "HR", "lr": data / "LR_bicubic_x4"}


def oracle(data):
    """An upscaler that returns the true images in turn."""
    images = iter([np.asarray(Image.open(data / "HR" / f"{i}.png")) for i in (0, 1)])
    return lambda _: next(images)


def add_metric(monkeypatch, *args, **kwargs):
    monkeypatch.setitem(METRICS, args[0], Metric(*args, **kwargs))


def test_rows_per_method_and_image(data):
    methods = BASELINES | {"oracle": oracle(data), "folder": data / "HR"}
    scores = evaluate(methods, ["psnr", "lr_psnr"], **folders(data))
    rows = scores.per_image
    assert list(rows) == ["bicubic", "bicubic+unsharp", "oracle", "folder"]
    assert [row.image for row in rows["oracle"]] == ["0.png", "1.png"]
    # 10 log10(1 / 1e-8): the protocol's PSNR of equal images.
    assert all(row.values["psnr"] == pytest.approx(80) for row in rows["oracle"])
    # The LR images were made of the true ones in just the metric's way.
    assert all(row.values["lr_psnr"] == pytest.approx(80) for row in rows["oracle"])
    assert rows["folder"] == rows["oracle"]
    assert all(20 < row.values["psnr"] < 60 for row in rows["bicubic"])


def test_a_metric_is_one_entry_of_the_table(data, monkeypatch):
    add_metric(
        monkeypatch,
        "red",
        None,
        higher_is_better=True,
        load=lambda: lambda sr: sr[0, 0, 0],
    )
    scores = evaluate({"HR": data / "HR"}, ["red"])
    expected = [
        np.asarray(Image.open(data / "HR" / f"{i}.png"))[0, 0, 0] for i in (0, 1)
    ]
    assert [row.values["red"] for row in scores.per_image["HR"]] == expected


def test_set_metrics_see_folders_of_all_outputs(data, monkeypatch):
    seen = {}

    def of_folders(sr_folder, hr_folder):
        files = sorted(sr_folder.iterdir())
        seen[len(seen)] = [np.asarray(Image.open(path)) for path in files]
        assert hr_folder == data / "HR"
        return len(files)

    add_metric(
        monkeypatch,
        *("count", "hr"),
        higher_is_better=False,
        load=lambda: of_folders,
        over="folder",
    )
    methods = {"bicubic": bicubic, "folder": data / "HR"}
    scores = evaluate(methods, ["psnr", "count"], **folders(data))
    assert scores.per_folder == {"bicubic": {"count": 2}, "folder": {"count": 2}}
    # Through files, the images are the same.
    direct = evaluate(methods, ["psnr"], **folders(data))
    assert scores.per_image == direct.per_image
    lr = np.asarray(Image.open(data / "LR_bicubic_x4" / "1.bmp"))
    np.testing.assert_array_equal(seen[0][1], bicubic(lr))


@pytest.mark.parametrize("ending", ["x4", "_x4", "_out"])
def test_one_ending_for_all_names_is_seen_through(data, ending):
    for i in range(2):
        path = data / "LR_bicubic_x4" / f"{i}.bmp"
        path.rename(path.with_stem(f"{i}{ending}"))
    matched = match_images(list(folders(data).values()))
    assert [[path.stem for path in files.values()] for files in matched] == [
        ["0", f"0{ending}"],
        ["1", f"1{ending}"],
    ]


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"1.png": "2.png"}, r"1: in only one of .*\(2 such"),
        # Different endings, or the ending on the first folder: guessing ends here.
        ({"0.png": "0_a.png", "1.png": "1_b.png"}, "in only one of"),
        ({"0.png": "0_a.png"}, "in only one of"),
    ],
)
def test_lonely_images_are_an_error(data, renamed, message):
    hr, lr = folders(data).values()
    for old, new in renamed.items():
        (hr / old).rename(hr / new)
    for order in ([hr, lr], [lr, hr]):
        with pytest.raises(EvaluationError, match=message):
            match_images(order)


def test_two_files_of_one_name_are_an_error(data):
    Image.new("RGB", (64, 48)).save(data / "HR" / "1.jpg")
    with pytest.raises(EvaluationError, match=r"1\.png: 1\.jpg has the same name"):
        match_images([data / "HR"])


def test_wrong_sizes_are_errors(data):
    with pytest.raises(EvaluationError, match=r"0\.bmp: LR is 16x12, its HR"):
        evaluate({"LR": data / "LR_bicubic_x4"}, ["psnr"], hr=data / "HR")
    Image.new("RGB", (60, 48)).save(data / "HR" / "0.png")
    with pytest.raises(EvaluationError, match=r"is 64x48, .*0\.png is 60x48"):
        evaluate(BASELINES, ["psnr"], **folders(data))


def test_a_failing_image_is_named(data, monkeypatch):
    with pytest.raises(EvaluationError, match=r"0\.png: niqe: NIQE needs both"):
        evaluate({"HR": data / "HR"}, ["niqe"])
    add_metric(
        monkeypatch, "bad", None, higher_is_better=True, load=lambda: lambda _: np.nan
    )
    with pytest.raises(EvaluationError, match=r"0\.png: bad is nan"):
        evaluate({"HR": data / "HR"}, ["bad"])

    def fail(_):
        raise MemoryError("too large")

    with pytest.raises(EvaluationError, match=r"0\.bmp: cannot be upscaled"):
        evaluate({"nano": fail}, ["psnr"], **folders(data))


@pytest.mark.parametrize(
    ("methods", "metrics", "given", "message"),
    [
        ({}, ["psnr"], ["hr"], "nothing to score"),
        (BASELINES, ["niqe"], ["hr"], "bicubic needs low-res.* --lr"),
        (BASELINES, ["niqe", "psnr"], ["lr"], "psnr compares .* --hr"),
        ({"a": "absent"}, ["lr_psnr"], ["hr"], "lr_psnr compares .* --lr"),
    ],
)
def test_missing_references_are_said_before_the_work(
    data, methods, metrics, given, message
):
    methods = {n: data / m if isinstance(m, str) else m for n, m in methods.items()}
    references = {kind: folders(data)[kind] for kind in given}
    with pytest.raises(MissingReferenceError, match=message):
        evaluate(methods, metrics, **references)


def test_folders_of_a_data_set(data):
    hr, lr = folders(data).values()
    assert find_folders(data) == (hr, lr)
    hr.rename(data / "gt")
    assert find_folders(data) == (data / "gt", lr)
    (data / "gt").rename(data / "other")
    assert find_folders(data) == (None, lr)
    (data / "lr_2").mkdir()
    with pytest.raises(EvaluationError, match="found 2"):
        find_folders(data)
    with pytest.raises(EvaluationError, match="no such folder"):
        find_folders(data / "absent")


def test_published_baselines(shared):
    # Published are the means over all hundred images.
    hr, lr = find_folders(shared / "benchmarks" / "RealSR")
    scores = evaluate(BASELINES, ["psnr"], hr=hr, lr=lr)
    means = [
        np.mean([row.values["psnr"] for row in rows])
        for rows in scores.per_image.values()
    ]
    np.testing.assert_allclose(means, [27.11, 26.79], atol=0.005)


@pytest.mark.slow
def test_golden_table(shared):
    """The published bicubic row, and every published value of three outputs."""
    realsr = shared / "benchmarks" / "RealSR"
    hr, lr = find_folders(realsr)
    metrics = ["psnr", "ssim", "lpips"]
    scores = evaluate({"bicubic": bicubic}, metrics, hr=hr, lr=lr)
    rows = scores.per_image["bicubic"]
    assert len(rows) == 100
    means = [np.mean([row.values[metric] for row in rows]) for metric in metrics]
    np.testing.assert_allclose(means, [27.1128, 0.7555, 0.4564], atol=5e-5)

    with open(realsr / "osediff_metrics.csv", newline="") as file:
        published = {row["file"]: row for row in csv.DictReader(file)}
    tolerances = {"PSNR": 1e-4, "SSIM": 1e-5, "LPIPS": 1e-3, "NIQE": 1e-4}
    for path in sorted((realsr / "osediff_sample").iterdir()):
        sr, truth = (
            np.asarray(Image.open(file).convert("RGB"))
            for file in (path, hr / path.name)
        )
        for column, tolerance in tolerances.items():
            metric = METRICS[column.lower()]
            images = (sr,) if metric.compares_with is None else (sr, truth)
            expected = float(published[path.name][column])
            assert metric.load()(*images) == pytest.approx(expected, abs=tolerance)
