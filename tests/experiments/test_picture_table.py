"""experiments/202611_picture_table: sets, rows, the cache of values, and the tables."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from linearsr_jax.core import image_io
from linearsr_jax.core.images import Image
from linearsr_jax.data.degradation_params import DEGRADATIONS

FOLDER = Path(__file__).resolve().parents[2] / "experiments/202611_picture_table"
MODULES = ("methods", "sets", "render", "crops", "compare")


@pytest.fixture(scope="module")
def table():
    """The experiment's modules by name; they import each other as scripts do."""
    sys.path.insert(0, str(FOLDER))
    modules = {name: importlib.import_module(name) for name in MODULES}
    yield modules
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        del sys.modules[name]


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image_io.write_image(path, Image(pixels))


def noise(seed, height, width):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_model_rows(table, monkeypatch):
    methods = table["methods"]
    with pytest.raises(ValueError, match=r"must be name=folder\[@steps"):
        methods.parse_model("nano")
    with pytest.raises(ValueError, match="must be name"):
        methods.parse_model("a=nano@1@0@2")
    calls = []

    class Upscaler:
        @staticmethod
        def from_pretrained(folder):
            return lambda image, **options: calls.append((folder, options))

    monkeypatch.setattr(methods, "Upscaler", Upscaler)
    for text in ("a=nano", "a=nano@4", "a=nano@1@0.25"):
        methods.parse_model(text).load()(noise(0, 4, 4))
    assert calls == [
        ("nano", {}),
        ("nano", {"steps": 4}),
        ("nano", {"steps": 1, "fidelity": 0.25}),
    ]
    one, four = (methods.parse_model(f"a=nano@{steps}") for steps in (1, 4))
    # Their outputs must not be taken for each other's.
    assert one.key != four.key
    assert 4e5 < one.parameters == four.parameters < 1.3e6


def test_lanczos_differs_from_bicubic_and_keeps_flat_areas(table):
    lanczos = table["methods"].lanczos
    flat = np.full((8, 6, 3), 77, np.uint8)
    assert np.array_equal(lanczos(flat), np.full((32, 24, 3), 77))
    assert np.any(lanczos(noise(0, 8, 6)) != table["methods"].bicubic(noise(0, 8, 6)))


def test_rivals_name_the_file_that_is_missing(table, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x4_v3\.param"):
        table["methods"].find_rivals(tmp_path, threads=1)


def test_busiest_crop(table):
    image = np.full((96, 160, 3), 128, np.uint8)
    image[30:60, 100:130] = noise(0, 30, 30)
    crop = table["sets"].busiest_crop(image, 64)
    np.testing.assert_array_equal(crop, image[0:64, 96:160])


def test_sets_of_photographs_are_made_once_and_the_same(table, tmp_path):
    photos = tmp_path / "photos"
    write(photos / "val" / "a.png", noise(1, 256, 256))
    first = table["sets"].make_sets(tmp_path, photos, tmp_path / "one")
    again = table["sets"].make_sets(tmp_path, photos, tmp_path / "two")
    assert {name.removeprefix("val, ") for name in first} >= set(DEGRADATIONS)
    inputs = []
    for degradation in DEGRADATIONS:
        files = [s[f"val, {degradation}"] / "LR" / "a.png" for s in (first, again)]
        image, same = (image_io.read_image(file).pixels for file in files)
        np.testing.assert_array_equal(image, same)
        assert image.shape == (64, 64, 3)
        inputs.append(image.tobytes())
    assert len(set(inputs)) == len(DEGRADATIONS)
    files[0].unlink()
    table["sets"].make_sets(tmp_path, photos, tmp_path / "one")
    assert not files[0].exists()


def test_outputs_and_values_are_computed_once(table, tmp_path):
    compare = table["compare"]
    data, outputs, scores = (tmp_path / x for x in ("data", "outputs", "scores"))
    for seed, name in enumerate(("a.png", "b.png")):
        write(data / "HR" / name, noise(seed, 16, 16))
        write(data / "LR" / name, noise(seed, 4, 4))
    calls = []

    def upscale(image):
        calls.append(image.shape)
        return image.repeat(4, axis=0).repeat(4, axis=1)

    method = table["methods"].Method("m", "1", lambda: upscale, 0)
    folder = outputs / method.key
    compare.make_outputs(method, data / "LR", folder)
    (folder / "b.png").unlink()
    compare.make_outputs(method, data / "LR", folder)
    assert len(calls) == 3
    assert compare.collect([method], scores) == {}
    compare.score([method], "psnr", data, outputs, scores)
    rows = compare.collect([method], scores)
    assert rows["m"]["n"] == 2
    assert 5 < rows["m"]["psnr"]["mean"] < 20
    write(data / "HR" / "c.png", noise(3, 16, 16))
    # Would fail for want of c's output if it measured again.
    compare.score([method], "psnr", data, outputs, scores)
    assert compare.collect([method], scores) == rows


def row(mean, **others):
    return {"n": 3, "psnr": {"mean": mean, "stderr": 0.126}} | others


def test_tables(table, tmp_path):
    render = table["render"]
    lpips = {"lpips": {"mean": 0.25, "stderr": 0.01}}
    results = {
        "methods": {
            "bicubic": {"parameters": 0, "seconds": None},
            "net": {"parameters": 1_250_000, "seconds": {"median": 0.1234}},
        },
        "sets": {"RealSR": {"bicubic": row(27.114), "net": row(26.5, **lpips)}},
    }
    text = render.render(results)
    assert "| net | 1.25 M | 0.123 |" in text
    assert "| bicubic | – | – |" in text
    assert "### RealSR, 3 images" in text
    assert "| method | PSNR-Y ↑ | LPIPS-Alex ↓ |" in text
    assert "| bicubic | **27.11** ± 0.13 | – |" in text
    assert "| net | 26.50 ± 0.13 | **0.2500** ± 0.0100 |" in text
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n")
    render.write_readme(results, readme)
    written = readme.read_text()
    assert written.startswith("before\n") and written.endswith("after\n")
    assert "old" not in written and text in written
    render.write_readme(results, readme)
    assert readme.read_text() == written
    readme.write_text("no place")
    with pytest.raises(ValueError, match="must hold the lines"):
        render.write_readme(results, readme)


def test_the_readme_has_what_results_say(table):
    results = json.loads((FOLDER / "results.json").read_text())
    assert table["render"].render(results) in (FOLDER / "README.md").read_text()


def test_crops(table, tmp_path):
    crops = table["crops"]
    assert len(crops.CROPS) == len({crop.label for crop in crops.CROPS}) == 16
    screenshot = next(crop for crop in crops.CROPS if crop.file is None)
    image_lr, image_hr = crops.read_pair(screenshot, tmp_path)
    assert image_hr.shape == (320, 320, 3) and image_lr.shape == (80, 80, 3)
    assert crops.shown(image_hr).shape == (192, 192, 3)
    image = noise(5, 300, 260)
    write(tmp_path / "p.png", image)
    # Beyond the photograph's edge the margin mirrors it; what is shown is inside.
    corner = crops.Crop("corner", "p.png", 68, 108, "noise")
    image_lr, image_hr = crops.read_pair(corner, tmp_path)
    assert image_hr.shape == (320, 320, 3) and image_lr.shape == (80, 80, 3)
    np.testing.assert_array_equal(crops.shown(image_hr), image[108:300, 68:260])
