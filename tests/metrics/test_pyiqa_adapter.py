"""The adapter for pyiqa, against a double that records what it is asked."""

import sys
import types

import numpy as np
import pytest

from linearsr_jax.metrics import METRICS, get_metrics
from linearsr_jax.metrics.pyiqa_adapter import PyiqaError, load_pyiqa

# A part of pyiqa 0.1.10's table, as it stands there.
CONFIGS = {
    "psnr": {"metric_mode": "FR"},
    "psnry": {"metric_mode": "FR"},
    "ssim": {"metric_mode": "FR"},
    "ssimc": {"metric_mode": "FR"},
    "dists": {"metric_mode": "FR", "lower_better": True},
    "niqe": {"metric_mode": "NR", "lower_better": True},
    "musiq": {"metric_mode": "NR"},
    "maniqa-pipal": {"metric_mode": "NR"},
    "clipiqa": {"metric_mode": "NR"},
    "fid": {"metric_mode": "NR", "lower_better": True},
}


class Tensor:
    """As much of torch's as the adapter uses."""

    def __init__(self, array):
        self.array = array

    def to(self, dtype):
        return Tensor(self.array.astype(dtype))

    def __truediv__(self, divisor):
        return Tensor(self.array / np.float32(divisor))


@pytest.fixture
def fake(monkeypatch):
    """Puts the double in pyiqa's place; returns its records."""
    records = types.SimpleNamespace(created=[], called=[])

    def create_metric(name, **options):
        records.created.append((name, options))

        def metric(*inputs):
            print("pyiqa prints to standard output")
            records.called.append(inputs)
            return np.array(0.625)

        return metric

    pyiqa, configs = (
        types.ModuleType(name) for name in ("pyiqa", "pyiqa.default_model_configs")
    )
    pyiqa.create_metric = create_metric
    configs.DEFAULT_CONFIGS = CONFIGS
    torch = types.ModuleType("torch")
    torch.from_numpy, torch.float32 = Tensor, np.float32
    for module in (pyiqa, configs, torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return records


def image(seed, height=5, width=7):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["psnr", "psnry", "ssim"])
def test_luma_metrics_get_the_colour_space_of_the_tables(fake, name):
    load_pyiqa(name)
    assert fake.created == [(name, {"test_y_channel": True, "color_space": "ycbcr"})]


@pytest.mark.parametrize("name", ["ssimc", "niqe", "musiq", "dists", "fid"])
def test_others_are_made_as_they_are(fake, name):
    load_pyiqa(name)
    # No device either: pyiqa takes the GPU that torch sees.
    assert fake.created == [(name, {})]


def test_images_are_rgb_planes_in_0_to_1(fake):
    sr, hr = image(0), image(1)
    assert load_pyiqa("dists")(sr, hr) == 0.625
    ((first, second),) = fake.called
    for tensor, array in ((first, sr), (second, hr)):
        assert tensor.array.dtype == np.float32
        assert tensor.array.shape == (1, 3, 5, 7)
        expected = np.moveaxis(array.astype(np.float32), 2, 0) / np.float32(255)
        np.testing.assert_array_equal(tensor.array[0], expected)
        assert tensor.array.flags["C_CONTIGUOUS"]


def test_without_reference_one_image_is_given(fake):
    load_pyiqa("musiq")(image(0))
    assert len(fake.called[0]) == 1
    with pytest.raises(ValueError, match="same shape"):
        load_pyiqa("dists")(image(0), image(0, 6, 7))
    with pytest.raises(ValueError, match="uint8"):
        load_pyiqa("musiq")(image(0) / 255)


def test_fid_gets_folders(fake, tmp_path):
    assert METRICS["fid"].load()(tmp_path / "a", tmp_path / "b") == 0.625
    assert fake.called == [(str(tmp_path / "a"), str(tmp_path / "b"))]


def test_standard_output_stays_clean(fake, capsys):
    load_pyiqa("musiq")(image(0))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pyiqa prints" in captured.err


def test_the_table_agrees_with_pyiqa(fake):
    # dists too, which is ours but stands for the same.
    names = ("dists", "musiq", "maniqa-pipal", "clipiqa", "fid")
    for metric, other in zip(
        get_metrics(names), get_metrics(f"pyiqa:{n}" for n in names), strict=True
    ):
        assert other.name == f"pyiqa:{metric.name}"
        assert metric.compares_with == other.compares_with
        assert metric.higher_is_better == other.higher_is_better
        assert metric.over == other.over
    assert METRICS["musiq"].higher_is_better
    assert not METRICS["dists"].higher_is_better
    assert METRICS["fid"].over == "folder"


def test_unknown_names(fake):
    with pytest.raises(ValueError, match="'musik'; did you mean 'musiq'"):
        get_metrics(["pyiqa:musik"])


def test_failures_are_one_line(fake, monkeypatch):
    def fail(name):
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", fail)
    with pytest.raises(PyiqaError, match=r"'musiq' \(no network at all\); it down"):
        load_pyiqa("musiq")


def test_absent_pyiqa(monkeypatch):
    # None makes the import fail as if nothing of that name were installed.
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert get_metrics(["musiq"])
    for use in (METRICS["musiq"].load, lambda: get_metrics(["pyiqa:musiq"])):
        with pytest.raises(PyiqaError, match=r"musiq comes from pyiqa.*pip install"):
            use()
