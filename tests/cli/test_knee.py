"""`linearsr knee`: output, exit codes, the picture."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli.running import run


@pytest.fixture
def curve(tmp_path):
    """A CSV: knee at step 15,000 of 60,000, swings from 40,000 on."""
    time = np.arange(60)
    rng = np.random.default_rng(0)
    rise = 1 - 0.05 ** (time / 15) + 0.01 * rng.standard_normal(60)
    rise[40:] += np.linspace(0.1, 0.4, 20) * (-1) ** np.arange(20)
    lines = ["step,psnr,lpips"]
    lines += [f"{1000 * t},{22 + 3 * r},{0.4 - 0.2 * r}" for t, r in enumerate(rise)]
    path = tmp_path / "curve.csv"
    path.write_text("\n".join(lines))
    return path


def test_json(capsys, curve):
    code, out, err = run(capsys, "knee", curve, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out.splitlines()[-1])
    assert found["verdict"] == "oscillating"
    assert abs(found["knee_step"] - 15000) <= 2000
    assert found["knee_step"] < found["decided_at_step"] <= 40000
    assert set(found["metrics"]) == {"psnr", "lpips"}
    assert found["metrics"]["lpips"]["vote"] == "plateau"
    assert found["metrics"]["lpips"]["level"] == pytest.approx(0.2, abs=0.01)


def test_text(capsys, curve):
    code, out, _ = run(capsys, "knee", curve)
    assert code == 0
    first, second, *metrics = out.splitlines()
    assert first.startswith("oscillating since step ")
    assert second.startswith("knee at step ")
    assert [line.split()[0] for line in metrics] == ["psnr", "lpips"]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_few_evaluations_are_no_error(capsys, tmp_path, count):
    path = tmp_path / "short.csv"
    path.write_text("step,psnr\n" + "".join(f"{i},{i}\n" for i in range(count)))
    code, out, _ = run(capsys, "knee", path, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["verdict"], found["knee_step"]) == ("none", None)
    assert found["decided_at_step"] is None
    noun = "evaluation" if count == 1 else "evaluations"
    assert found["reason"] == f"only {count} {noun}; 8 are the least"


def test_infinite_values_are_valid_json(capsys, tmp_path):
    path = tmp_path / "lost.csv"
    path.write_text("step,loss\n" + "".join(f"{i},inf\n" for i in range(12)))
    code, out, _ = run(capsys, "knee", path, "--json")
    assert code == 0

    def fail(constant):
        raise AssertionError(constant)

    found = json.loads(out, parse_constant=fail)
    assert found["verdict"] == "diverged"
    assert found["reason"] == "no metric of the newest evaluations is finite"


def test_errors_are_one_line(capsys, tmp_path):
    unknown = tmp_path / "unknown.csv"
    unknown.write_text("step,quality\n1,2\n")
    for args, message in (
        ((tmp_path / "absent.csv",), "absent.csv: No such file or directory"),
        ((tmp_path,), "metrics.jsonl"),
        ((unknown,), "--lower quality or --higher quality"),
    ):
        code, out, err = run(capsys, "knee", *args)
        assert (code, out) == (1, "")
        assert message in err
        assert err.count("\n") == 1
    assert run(capsys, "knee", unknown, "--lower", "quality")[0] == 0


def test_plot_of_an_empty_curve(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "empty.csv"
    path.write_text("step,psnr\n")
    code, out, _ = run(capsys, "knee", path, "--plot", tmp_path / "empty.png")
    assert code == 0
    assert out.startswith("none: only 0")


def test_plot(capsys, curve, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "knee.png"
    picture.write_text("an older one")
    assert run(capsys, "knee", curve, "--plot", picture)[0] == 0
    with Image.open(picture) as image:
        colours = {
            tuple(int(c) for c in pixel)
            for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)
        }
    # tab:blue, the knee; tab:green and tab:orange, shaded.
    for shade in ((31, 119, 180), (199, 231, 199), (255, 229, 206)):
        assert any(np.abs(np.subtract(shade, c)).max() < 4 for c in colours), shade
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.csv", "knee.png"]


def test_plot_of_a_lost_run_begins_at_its_first_evaluation(
    capsys, curve, tmp_path, monkeypatch
):
    figure = pytest.importorskip("matplotlib.figure")
    lines = curve.read_text().splitlines()[:31]
    lines[1] = "0,18,0.8"  # an untrained model
    curve.write_text("\n".join([*lines, *(f"{n}000,nan,nan" for n in range(30, 36))]))
    drawn = []
    save = figure.Figure.savefig

    def keep(self, *args, **kwargs):
        drawn.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    code, out, _ = run(capsys, "knee", curve, "--plot", tmp_path / "knee.png")
    assert (code, out.split(":")[0]) == (0, "diverged since step 30000")
    for axis, name in zip(drawn[0].axes, ("psnr", "lpips"), strict=True):
        first = axis.lines[0].get_ydata()[0]
        low, high = axis.get_ylim()
        assert low < first < high, name
        lost = [patch for patch in axis.patches if patch.get_label() == "lost"]
        assert [patch.get_x() for patch in lost] == [30000], name


@pytest.mark.parametrize("name", ["knee.xyz", "knee"])
def test_plot_of_unknown_kind(capsys, curve, tmp_path, name):
    pytest.importorskip("matplotlib")
    code, _, err = run(capsys, "knee", curve, "--plot", tmp_path / name)
    assert code == 1
    assert f"--plot {tmp_path / name}: " in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["curve.csv"]


def test_plot_without_matplotlib(capsys, curve, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(capsys, "knee", curve, "--plot", tmp_path / "knee.png")
    assert code == 1
    assert err == (
        'linearsr: --plot: needs matplotlib; pip install "linearsr_jax[plot]"\n'
    )


def test_does_not_import_jax(curve):
    program = (
        "import sys; from linearsr_jax.cli import main;"
        f"main.main(['knee', {str(curve)!r}]);"
        "print('jax' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False False"


def test_a_million_rows(capsys, tmp_path):
    count = 1_000_000
    time = np.arange(count)
    values = 22 + 3 * (1 - 0.05 ** (5 * time / count))
    path = tmp_path / "long.csv"
    np.savetxt(
        path,
        np.stack([time, values], axis=1),
        delimiter=",",
        fmt=["%d", "%.4f"],
        header="step,psnr",
        comments="",
    )
    code, out, _ = run(capsys, "knee", path, "--json")
    assert code == 0
    assert abs(json.loads(out)["knee_step"] - 0.2 * count) < 0.02 * count
