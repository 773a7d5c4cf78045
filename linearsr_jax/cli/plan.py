"""`linearsr plan`: what training or upscaling needs on chips that are not here."""

import argparse
import json
import re

from linearsr_jax.cli.arguments import (
    UsageError,
    add_json,
    add_override,
    positive,
    setting,
)

# Not 1, so that a script that looks for a topology can tell it from a failure.
DOES_NOT_FIT = 3

HELP = "compile training or upscaling for chips that are not here; say what it needs"


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
    parser.add_argument(
        "--slices",
        type=positive,
        default=1,
        metavar="N",
        help="how many such slices of TPUs train together (default: %(default)s)",
    )
    parser.add_argument(
        "--image",
        type=_pixels,
        metavar="WxH",
        help="plan upscaling to this size with the config's model, not its training",
    )
    parser.add_argument(
        "--steps",
        type=setting("steps"),
        metavar="N",
        help="network evaluations per image, with --image (default: the preset's)",
    )
    add_override(parser, "mesh.fsdp=16")
    add_json(parser)


def _pixels(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1024x1024")
    return int(found[1]), int(found[2])


def run(args: argparse.Namespace) -> int:
    """Prints the plan; returns 0 if the program fits, else 3."""
    from linearsr_jax.config.loading import ConfigError, load_config
    from linearsr_jax.plan.sampler_plan import format_sampler_plan, plan_sampler
    from linearsr_jax.plan.step_plan import format_step_plan, plan_step
    from linearsr_jax.plan.topologies import parse_topology
    from linearsr_jax.training.record import BadFieldError
    from linearsr_jax.training.setup import make_parts

    if args.steps and not args.image:
        raise UsageError("--steps belongs to --image")
    # What is not needed for the shapes need not be given.
    unused = ["data.folder=photographs"]
    try:
        config = load_config(args.config, [*unused, *args.override])
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if not (config.val.folder or config.val.holdout):
        with config.unlocked():
            config.val.holdout = 0.1
    topology = parse_topology(args.topology, args.slices)
    devices = topology.devices()
    if args.image:
        # One chip upscales an image, whatever the mesh that trains.
        config.mesh.update({"experts": 1, "data": -1, "fsdp": 1, "sequence": 1})
    try:
        parts = make_parts(config, devices[:1] if args.image else devices)
    except BadFieldError as error:
        raise UsageError(str(error)) from error
    if args.image:
        number = args.steps or parts.preset.default_steps
        plan = plan_sampler(parts, topology, devices, args.image, number)
        text = format_sampler_plan(plan)
    else:
        plan = plan_step(parts, topology)
        text = format_step_plan(plan)
    print(json.dumps(plan.to_json()) if args.json else text)
    return 0 if plan.fits else DOES_NOT_FIT
