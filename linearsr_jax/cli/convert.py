"""`linearsr convert`: converts other projects' weights to our folders."""

import argparse
from pathlib import Path

from linearsr_jax.cli.arguments import UsageError

HELP = "convert other projects' weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--from",
        required=True,
        choices=["dc-ae", "gemma2", "ram", "sana"],
        dest="source_model",
        help="model that the weights belong to",
    )
    parser.add_argument(
        "source", type=Path, metavar="SRC", help="file or folder of weights"
    )
    parser.add_argument(
        "--to", required=True, type=Path, metavar="DIR", help="folder to write"
    )
    parser.add_argument(
        "--codec",
        type=Path,
        metavar="SRC",
        help="autoencoder for sana: DC-AE, converted or not (default: the pipeline's "
        "vae)",
    )


def run(args: argparse.Namespace) -> int:
    """Converts one model and prints how many parameters it has."""
    from linearsr_jax.convert import dc_ae, gemma2, ram, sana

    converters = {
        "dc-ae": dc_ae.convert,
        "gemma2": gemma2.convert,
        "ram": ram.convert,
    }
    if args.source_model == "sana":
        count = sana.convert(args.source, args.to, args.codec)
    elif args.codec is not None:
        raise UsageError("convert: --codec goes with --from sana only")
    else:
        count = converters[args.source_model](args.source, args.to)
    print(f"{args.to}: {count} parameters")
    return 0
