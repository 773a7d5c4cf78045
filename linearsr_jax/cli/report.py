"""`linearsr report`: how a training went."""

import argparse
import json
from pathlib import Path

from linearsr_jax.cli.arguments import add_json

HELP = "say where a training's time went, and how its losses and scores moved"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="training folder")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw it, e.g. report.png"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the report, and draws it if asked."""
    from linearsr_jax.esgf import run_report

    report = run_report.report_run(args.workdir)
    if args.plot:
        run_report.plot_run(run_report.read_log(args.workdir), report, args.plot)
    if args.json:
        print(json.dumps(report.to_json()))
    else:
        print(run_report.format_report(report))
    return 0
