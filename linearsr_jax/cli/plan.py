"""`linearsr plan`: what a training run needs on chips that are not here."""

import argparse
import json

from linearsr_jax.cli.arguments import UsageError, add_json, add_override

HELP = "compile a training step for chips that are not here, and say what it needs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="config file, see configs/",
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SIZE",
        help="such as v5e:4x4, v5p:4x4x4 or h200:8; TPUs need the extra aot",
    )
    add_override(parser, "mesh.fsdp=16")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the plan; 0 if the step fits, else 1."""
    from linearsr_jax.config.loading import ConfigError, load_config
    from linearsr_jax.plan.planner import format_plan, make_plan
    from linearsr_jax.plan.topologies import parse_topology
    from linearsr_jax.training.setup import make_parts

    # What is not needed for the shapes need not be given.
    unused = ["data.folder=photographs"]
    try:
        config = load_config(args.config, [*unused, *args.override])
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if not (config.val.folder or config.val.holdout):
        with config.unlocked():
            config.val.holdout = 0.1
    topology = parse_topology(args.topology)
    plan = make_plan(make_parts(config, topology.devices()), topology)
    print(json.dumps(plan.to_json()) if args.json else format_plan(plan))
    return 0 if plan.fits else 1
