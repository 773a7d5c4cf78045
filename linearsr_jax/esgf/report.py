"""Reports the verdict of `knee.find_knee` as text, JSON or a picture."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.core.files import written_whole
from linearsr_jax.esgf.curve_files import Curve
from linearsr_jax.esgf.knee import Evidence, Verdict


class PlotError(LinearSRError):
    """Raised for a plot that cannot be drawn; one line that says what to do."""


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Converts a verdict to values that JSON can store; every number is finite."""
    return dataclasses.asdict(verdict)


def format_verdict(verdict: Verdict) -> str:
    """Formats a verdict and its evidence as text, without a final newline."""
    since = (
        f" since step {verdict.since_step}" if verdict.since_step is not None else ""
    )
    lines = [f"{verdict.verdict}{since}: {verdict.reason}"]
    if verdict.knee_step is not None:
        lines.append(
            f"knee at step {verdict.knee_step}, decided at step "
            f"{verdict.decided_at_step}"
        )
    width = max(map(len, verdict.metrics), default=0)
    lines += [
        f"  {name:{width}}  {_describe(evidence)}"
        for name, evidence in verdict.metrics.items()
    ]
    return "\n".join(lines)


def _describe(evidence: Evidence) -> str:
    parts = [f"{evidence.vote:8}  {evidence.evaluations} evaluations"]
    if evidence.knee_step is not None:
        assert evidence.noise is not None and evidence.rise is not None
        parts += [
            f"knee {evidence.knee_step}",
            f"level {evidence.level:.4g} ± {evidence.tolerance:.2g}",
            f"noise {100 * evidence.noise / evidence.rise:.1f} % of the rise "
            f"{evidence.rise:.3g}",
            f"swings {evidence.oscillation_ratio:.1f} times the noise",
        ]
    if evidence.gain_left is not None:
        parts.append(f"at most {100 * evidence.gain_left:.1f} % to gain")
    elif evidence.vote == "rising":
        parts.append("may rise on without end")
    if evidence.diverged_since_step is not None:
        parts.append(f"lost since {evidence.diverged_since_step}")
    return ", ".join(parts)


def plot_verdict(curve: Curve, verdict: Verdict, path: Path) -> None:
    """Draws each metric with its knee, plateau and oscillation.

    Args:
      curve: the evaluations.
      verdict: the verdict on them.
      path: picture to write, replaced if it exists. The suffix chooses the format
        (.png, .svg, .pdf).

    Raises:
      PlotError: path has no suffix or cannot be written, or matplotlib is not
        installed or does not know the suffix.
    """
    if not path.suffix:
        raise PlotError(f"--plot {path}: needs an ending that says the format: .png")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, MaxNLocator
    except ImportError as error:
        raise PlotError(
            '--plot: needs matplotlib; pip install "linearsr_jax[plot]"'
        ) from error
    count = len(curve.metrics)
    figure = Figure(figsize=(8, 1.2 + 2.2 * count), layout="constrained")
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, values) in zip(axes, curve.metrics.items(), strict=True):
        _draw(axis, curve.steps, values, verdict, verdict.metrics[name])
        better = "higher" if curve.higher_is_better[name] else "lower"
        axis.set_ylabel(f"{name}\n({better} is better)")
    axes[0].set_title(format_verdict(verdict).splitlines()[0], fontsize=10)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[-1].xaxis.set_major_locator(
        MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10])
    )
    handles = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    try:
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=120, format=path.suffix[1:])
    except OSError as error:
        raise PlotError(f"--plot {path}: {error.strerror}") from error
    except ValueError as error:
        raise PlotError(f"--plot {path}: {error}".splitlines()[0]) from error


def _draw(axis, steps, values, verdict: Verdict, evidence: Evidence) -> None:
    finite = np.isfinite(values)
    axis.plot(
        steps[finite],
        values[finite],
        ".-",
        color="0.25",
        lw=1,
        ms=4,
        label="evaluations",
    )
    _limit(axis, values[finite])
    if evidence.knee_step is not None:
        assert evidence.level is not None and evidence.tolerance is not None
        end = steps[-1]
        swings = evidence.oscillating_since_step
        axis.fill_between(
            [evidence.knee_step, end],
            evidence.level - evidence.tolerance,
            evidence.level + evidence.tolerance,
            color="tab:green",
            alpha=0.25,
            lw=0,
            label="plateau ± tolerance",
        )
        if swings is not None:
            axis.axvspan(
                swings, end, color="tab:orange", alpha=0.2, lw=0, label="oscillation"
            )
    lost = evidence.diverged_since_step
    if verdict.verdict == "diverged" and not finite[-1]:
        lost = verdict.since_step
    if lost is not None:
        axis.axvspan(
            lost,
            steps[-1],
            color="tab:red",
            alpha=0.2,
            lw=0,
            label="lost",
        )
    if verdict.knee_step is not None:
        axis.axvline(verdict.knee_step, color="tab:blue", label="knee")
        axis.axvline(verdict.decided_at_step, color="tab:blue", ls=":", label="decided")


def _limit(axis, values) -> None:
    # A single outlier must not flatten the curve. The first evaluation is the start of
    # the rise, however far off it is.
    if len(values) < 20:
        return
    ends = np.quantile(values, [0.02, 0.98])
    low, high = min(values[0], ends[0]), max(values[0], ends[1])
    margin = 0.25 * (high - low)
    axis.set_ylim(
        max(values.min(), low - margin) - 0.2 * margin,
        min(values.max(), high + margin) + 0.2 * margin,
    )
