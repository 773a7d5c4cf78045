"""The report of a run, from logs whose sums are known."""

import json

import pytest

from linearsr_jax.cli import main as cli
from linearsr_jax.esgf.run_report import ReportError, report_run


def row(step, seconds, compiling, **others):
    return {
        "step": step,
        "loss": 1.0 / step,
        "seconds": seconds,
        "seconds_starting": 1.0,
        "seconds_compiling": compiling,
        "seconds_lost": 0.0,
        **others,
    }


@pytest.fixture
def workdir(tmp_path):
    """Two processes: 20 s of which 6 did not train, then 10 s of which 3 did not."""
    rows = [
        row(1, 10.0, 5.0),
        row(2, 20.0, 5.0),
        {"step": 2, "val_psnr_light": 20.0, "voters": ["val_psnr_light"]},
        row(3, 5.0, 2.0),
        row(4, 10.0, 2.0),
    ]
    lines = [json.dumps(x) for x in rows]
    lines.insert(2, '{"step": 9')
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    knee = {"verdict": "rising", "reason": "too short", "knee_step": None}
    (tmp_path / "knee.json").write_text(json.dumps(knee))
    return tmp_path


def test_times_add_up_over_restarts(workdir):
    report = report_run(workdir)
    assert (report.step, report.starts) == (4, 2)
    assert report.seconds["training"] == 21
    assert report.seconds["compiling"] == 7
    assert report.seconds["starting"] == 2
    assert report.goodput_percent == pytest.approx(70)
    assert (report.first_loss, report.last_loss) == (1.0, 0.25)


def test_a_start_that_logs_late_is_another_start(tmp_path):
    rows = [row(1, 10.0, 5.0), row(2, 30.0, 6.0, seconds_starting=4.0)]
    text = "\n".join(json.dumps(x) for x in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    report = report_run(tmp_path)
    assert report.starts == 2
    assert report.seconds["compiling"] == 11


def test_the_command_prints_and_draws(workdir, capsys):
    picture = workdir / "report.png"
    assert cli.main(["report", str(workdir), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "goodput 70.0 % of 0:00:30" in out
    assert "rising: too short" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["report", str(workdir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"]["training"] == 21


def test_logs_of_0_2_have_no_times(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 0.5}\n')
    report = report_run(tmp_path)
    assert report.step == 5
    assert report.to_json()["goodput_percent"] is None


def test_a_folder_without_a_log(tmp_path):
    with pytest.raises(ReportError, match="it has no metrics"):
        report_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ReportError, match="no readable line"):
        report_run(tmp_path)
