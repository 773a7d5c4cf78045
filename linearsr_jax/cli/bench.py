"""`linearsr bench`: times parts of the model on this device."""

import argparse
import json
import logging
from typing import Any

from linearsr_jax.cli.arguments import (
    UsageError,
    add_dtype,
    add_json,
    positive,
    setting,
)

HELP = "time parts of the model on this device"

_DEFAULTS = {"preset": "nano", "size": [512], "steps": 8, "dtype": "float32"}
# The options that the benchmark of each part takes, in its order.
_TAKES = {
    "attention": (),
    "experts": ("preset", "steps"),
    "forward": ("preset", "size", "dtype"),
    "upscale": ("preset", "size", "steps", "dtype"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "part",
        choices=_TAKES,
        help="linear attention against a copy in memory; sampling with four experts "
        "against one; one network evaluation, part by part; a whole image",
    )
    parser.add_argument(
        "--preset",
        help="model size, for experts, forward and upscale (default: nano)",
    )
    parser.add_argument(
        "--steps",
        type=setting("steps"),
        metavar="N",
        help="network evaluations, for experts and upscale (default: 8)",
    )
    parser.add_argument(
        "--size",
        type=positive,
        nargs="+",
        metavar="PIXELS",
        help="side of the output, for forward and upscale (default: 512)",
    )
    add_dtype(parser, "precision, for forward and upscale")
    # None tells what was not given.
    parser.set_defaults(dtype=None)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs one benchmark and prints its rows."""
    settings = _settings(args)
    from kernels_pallas import bench_lib

    logging.getLogger("kernels_pallas").setLevel(logging.INFO)
    if args.part == "attention":
        from kernels_pallas.linear_attention.bench import bench
    elif args.part == "experts":
        from linearsr_jax.benchmarks.experts import bench_experts as bench
    elif args.part == "forward":
        from linearsr_jax.benchmarks.forward import bench_forward as bench
    else:
        from linearsr_jax.benchmarks.upscale import bench_upscale as bench
    result = bench(*settings)
    print(json.dumps(result) if args.json else bench_lib.format_report(result))
    return int(any("error" in row for row in result["rows"]))


def _settings(args: argparse.Namespace) -> list[Any]:
    """Returns the values of the options that the part takes, in its order.

    Raises:
      UsageError: another option was given.
    """
    for name in _DEFAULTS:
        if name not in _TAKES[args.part] and getattr(args, name) is not None:
            parts = [part for part, names in _TAKES.items() if name in names]
            raise UsageError(f"bench: --{name} belongs to {', '.join(parts)}")
    given = {name: getattr(args, name) for name in _TAKES[args.part]}
    return [_DEFAULTS[name] if x is None else x for name, x in given.items()]
