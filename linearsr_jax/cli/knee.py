"""`linearsr knee`: finds the step at which a curve stopped improving."""

import argparse
import json
from pathlib import Path

from linearsr_jax.cli.arguments import add_json

HELP = "find the step at which a run stopped improving"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "curve",
        type=Path,
        metavar="WORKDIR|CSV",
        help="a training folder, or a CSV with the header step,METRIC,...",
    )
    for side, other in (("lower", "loss"), ("higher", "accuracy")):
        parser.add_argument(
            f"--{side}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"a metric whose {side} values are better, e.g. {other}",
        )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the evidence")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the verdict on a curve."""
    from linearsr_jax.esgf import curve_files, report
    from linearsr_jax.esgf.knee import find_knee

    curve = curve_files.read_curve(args.curve, lower=args.lower, higher=args.higher)
    verdict = find_knee(curve.steps, curve.metrics, curve.higher_is_better)
    if args.plot is not None:
        report.plot_verdict(curve, verdict, args.plot)
    print(
        json.dumps(report.to_json(verdict))
        if args.json
        else report.format_verdict(verdict)
    )
    return 0
