"""Tables: means, standard errors, the JSON shape, text and CSV."""

import csv
import json
import os

import pytest

from linearsr_jax.evaluation.tables import (
    Average,
    ImageScores,
    check_per_image_path,
    format_table,
    summarize,
    to_json,
    write_per_image,
)

PER_IMAGE = {
    "bicubic": [
        ImageScores("a.png", {"psnr": 20.0, "ssim": 0.5}),
        ImageScores("b.png", {"psnr": 22.0, "ssim": 0.5}),
        ImageScores("c.png", {"psnr": 27.0, "ssim": 0.8}),
    ],
    "nano": [ImageScores("a.png", {"psnr": 1 / 3})],
}


def test_summary_values_and_shape():
    table = to_json(summarize(PER_IMAGE))
    first, second = table["rows"]
    assert (first["name"], first["n"]) == ("bicubic", 3)
    assert first["psnr"]["mean"] == pytest.approx(23)
    # Deviations -3, -1, 4: variance 26 / 2, over 3 images.
    assert first["psnr"]["stderr"] == pytest.approx((13 / 3) ** 0.5)
    assert first["ssim"]["mean"] == pytest.approx(0.6)
    assert second == {"name": "nano", "n": 1, "psnr": {"mean": 1 / 3, "stderr": None}}
    assert json.loads(json.dumps(table, allow_nan=False)) == table


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no images"),
        ([("a", {"psnr": 1.0}), ("a", {"psnr": 2.0})], "twice"),
        ([("a", {"psnr": 1.0}), ("b", {})], "'b' has"),
        ([("a", {"psnr": float("nan")})], "psnr of 'a' is nan"),
    ],
)
def test_refuses_rows_that_do_not_average(rows, message):
    with pytest.raises(ValueError, match=message):
        summarize({"nano": [ImageScores(*row) for row in rows]})


def test_text_is_aligned():
    text = format_table(summarize(PER_IMAGE))
    assert text.split("\n") == [
        "name     n              psnr             ssim",
        "bicubic  3  23.0000 ± 2.0817  0.6000 ± 0.1000",
        "nano     1            0.3333                -",
    ]
    assert format_table([]) == ""


def test_arrows_say_what_is_better():
    rows = summarize(PER_IMAGE)
    text = format_table(rows, {"psnr": True, "ssim": False})
    assert text.split("\n")[0] == ("name     n            psnr ↑           ssim ↓")


def test_values_of_a_whole_set():
    rows = summarize(PER_IMAGE, {"nano": {"fid": 33.5}})
    assert "fid" not in rows[0].averages
    assert rows[1].averages["fid"] == Average(33.5, None)
    assert format_table(rows).split("\n")[2].endswith("33.5000")


def test_csv_keeps_digits(tmp_path):
    path = tmp_path / "per_image.csv"
    write_per_image(path, PER_IMAGE)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "image", "psnr", "ssim"]
    assert len(rows) == 4
    assert float(rows[3]["psnr"]) == 1 / 3
    assert rows[3]["ssim"] == ""
    assert [p.name for p in tmp_path.iterdir()] == ["per_image.csv"]


def test_json_has_the_same_records(tmp_path):
    path = tmp_path / "per_image.JSON"
    write_per_image(path, PER_IMAGE)
    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert rows[1] == {"name": "bicubic", "image": "b.png", "psnr": 22.0, "ssim": 0.5}
    assert rows[3] == {"name": "nano", "image": "a.png", "psnr": 1 / 3}


def test_existing_files_are_kept(tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_per_image(path, PER_IMAGE)
    assert path.read_text() == "old"
    write_per_image(path, PER_IMAGE, overwrite=True)
    assert path.read_text() != "old"


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.txt", r"\.csv or \.json"), ("a", r"\.csv or"), ("no/a.csv", "no such folder")],
)
def test_names_are_checked_before_the_work(tmp_path, name, message):
    with pytest.raises((ValueError, OSError), match=message):
        check_per_image_path(tmp_path / name)


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "per_image.csv"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_per_image(path, PER_IMAGE, overwrite=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["per_image.csv"]
