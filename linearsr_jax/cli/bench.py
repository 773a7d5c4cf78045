"""`linearsr bench`: times parts of the model on this device."""

import argparse
import json
import logging

from linearsr_jax.cli.arguments import add_dtype, add_json, positive, setting

HELP = "time parts of the model on this device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "part",
        choices=["attention", "experts", "forward", "upscale"],
        help="linear attention against a copy in memory; sampling with four experts "
        "against one; one network evaluation, part by part; a whole image",
    )
    parser.add_argument("--preset", default="nano", help="model size (default: nano)")
    parser.add_argument(
        "--steps",
        type=setting("steps"),
        default=8,
        metavar="N",
        help="network evaluations, for experts and upscale (default: 8)",
    )
    parser.add_argument(
        "--size",
        type=positive,
        nargs="+",
        default=[512],
        metavar="PIXELS",
        help="side of the output, for forward and upscale (default: 512)",
    )
    add_dtype(parser, "precision, for forward and upscale")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs one benchmark and prints its rows."""
    from kernels_pallas import bench_lib

    logging.getLogger("kernels_pallas").setLevel(logging.INFO)
    if args.part == "attention":
        from kernels_pallas.linear_attention.bench import bench

        result = bench()
    elif args.part == "experts":
        from linearsr_jax.benchmarks.experts import bench_experts

        result = bench_experts(args.preset, args.steps)
    elif args.part == "forward":
        from linearsr_jax.benchmarks.forward import bench_forward

        result = bench_forward(args.preset, args.size, args.dtype)
    else:
        from linearsr_jax.benchmarks.upscale import bench_upscale

        result = bench_upscale(args.preset, args.size, args.steps, args.dtype)
    print(json.dumps(result) if args.json else bench_lib.format_report(result))
    return int(any("error" in row for row in result["rows"]))
