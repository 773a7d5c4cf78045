"""Reports how a run went: where its time went, its losses, its knee."""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.files import written_whole
from linearsr_jax.esgf.report import PlotError
from linearsr_jax.esgf.run_log import KINDS, LOG, SECONDS


class ReportError(LinearSRError, ValueError):
    """Raised for a folder without a readable log; one line that says what is wrong."""


@dataclasses.dataclass(frozen=True)
class RunReport:
    """The course of a run.

    Attributes:
      step: last step in the log.
      starts: number of processes that wrote the log, one after another.
      seconds: seconds of each kind: training, and the kinds of `run_log`.
        What a killed process did after its last line in the log, and the time until
        the next one started, are in no log, and not here.
      goodput_percent: share of training; NaN if the log has no times.
      first_loss, last_loss: means of the first and last tenth of the logged losses.
      knee: what knee.json says; None if there is none.
    """

    step: int
    starts: int
    seconds: dict[str, float]
    goodput_percent: float
    first_loss: float
    last_loss: float
    knee: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Converts to values that JSON can store; NaN becomes null."""
        values = dataclasses.asdict(self)
        return {
            name: None if isinstance(x, float) and math.isnan(x) else x
            for name, x in values.items()
        }


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """Reads the rows of a run's log; damaged lines are left out.

    Raises:
      ReportError: there is no log, or no row in it.
    """
    path = workdir / LOG
    if not path.is_file():
        raise ReportError(f"{workdir}: not a training folder; it has no {LOG}")
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    if not rows:
        raise ReportError(f"{path}: has no readable line yet")
    return rows


def summarize(rows: Sequence[dict[str, Any]], knee: dict[str, Any] | None) -> RunReport:
    """Summarises a log.

    Args:
      rows: see `read_log`.
      knee: content of knee.json, if there is one.
    """
    timed = [row for row in rows if SECONDS in row]
    # The clock begins anew with each process; the last row of each has its sum.
    last = [
        row
        for row, after in itertools.zip_longest(timed, timed[1:])
        if after is None
        or after[SECONDS] < row[SECONDS]
        # No two starts take equally long.
        or after.get("seconds_starting") != row.get("seconds_starting")
    ]
    seconds = {
        kind: sum(row.get(f"seconds_{kind}") or 0.0 for row in last) for kind in KINDS
    }
    total = sum(row[SECONDS] for row in last)
    training = total - sum(seconds.values())
    losses = [row["loss"] for row in rows if isinstance(row.get("loss"), float)]
    tenth = max(1, len(losses) // 10)
    return RunReport(
        step=max(row["step"] for row in rows),
        starts=len(last),
        seconds={"training": training, **seconds},
        goodput_percent=100 * training / total if total else math.nan,
        first_loss=_mean(losses[:tenth]),
        last_loss=_mean(losses[-tenth:]),
        knee=knee,
    )


def report_run(workdir: Path) -> RunReport:
    """Reads and summarises a workdir.

    Raises:
      ReportError: see `read_log`.
    """
    path = workdir / "knee.json"
    try:
        knee = json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ReportError(
            f"{path}: is damaged; the next validation mends it"
        ) from error
    return summarize(read_log(workdir), knee)


def format_report(report: RunReport) -> str:
    """Formats a report for people, without a final newline."""
    lines = [
        f"step {report.step}, {report.starts} starts, loss {report.first_loss:.4g} at "
        f"first, {report.last_loss:.4g} now"
    ]
    total = sum(report.seconds.values())
    if total:
        lines.append(f"goodput {report.goodput_percent:.1f} % of {_duration(total)}")
        lines += [
            f"  {kind:<10} {_duration(spent):>10}  {100 * spent / total:5.1f} %"
            for kind, spent in report.seconds.items()
        ]
    if report.knee:
        lines.append(f"{report.knee.get('verdict')}: {report.knee.get('reason')}")
    return "\n".join(lines)


def plot_run(rows: Sequence[dict[str, Any]], report: RunReport, path: Path) -> None:
    """Draws the losses with the knee, the scores, and where the time went.

    Raises:
      PlotError: matplotlib is not installed, or path cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(
            '--plot: needs matplotlib; pip install "linearsr_jax[plot]"'
        ) from error
    figure = Figure(figsize=(8, 8), layout="constrained")
    of_loss, of_scores, of_time = figure.subplots(3, 1)
    for axis, wanted in (
        (of_loss, {"loss"}),
        (of_scores, {name for row in rows for name in row.get("voters", ())}),
    ):
        for name in sorted(wanted):
            points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
            axis.plot(*zip(*points, strict=True), label=name) if points else None
        if report.knee and report.knee.get("knee_step") is not None:
            axis.axvline(report.knee["knee_step"], color="black", label="knee")
        if wanted:
            axis.legend(fontsize=7)
    of_loss.set_yscale("log")
    of_scores.set_xlabel("step")
    of_time.barh(list(report.seconds), list(report.seconds.values()))
    of_time.set_xlabel(f"seconds; goodput {report.goodput_percent:.1f} %")
    try:
        with written_whole(path) as temporary:
            figure.savefig(temporary, format=path.suffix.lstrip(".") or "png")
    except (OSError, ValueError) as error:
        raise PlotError(f"--plot {path}: {error}") from error


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
