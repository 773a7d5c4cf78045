"""`linearsr upscale`: enlarges images."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr_jax.cli.arguments import (
    UsageError,
    add_computation,
    add_json,
    add_model,
    add_seed,
    setting,
    shard,
)
from linearsr_jax.cli.batch_report import BatchReport
from linearsr_jax.cli.beside import Stopped, run_beside
from linearsr_jax.cli.output_arguments import (
    COLOR_FIXES,
    add_fixes,
    add_format,
    add_max_pixels,
    add_size,
    add_uncertainty,
)
from linearsr_jax.cli.progress import PartsBar
from linearsr_jax.cli.repeating import (
    make_manifest,
    set_arguments,
    warn_of_differences,
)

if TYPE_CHECKING:
    from linearsr_jax.inference.batch import Output
    from linearsr_jax.inference.batch_inputs import Failure
    from linearsr_jax.inference.batch_plan import Plan
    from linearsr_jax.inference.manifest import Manifest
    from linearsr_jax.inference.upscaler import Upscaler
    from linearsr_jax.pretrained.model_folder import PretrainedModel

HELP = "upscale images"

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    _add_files(parser)
    add_model(parser)
    parser.add_argument(
        "--steps",
        type=setting("steps"),
        metavar="N",
        help="network evaluations (default: the model's): of nano-flow, 1 stays "
        "closest to the original and more add detail; nano was trained for 1, and more "
        "take longer and look worse",
    )
    add_size(parser)
    add_seed(parser, "selects the detail that is added")
    parser.add_argument(
        "--fidelity",
        type=setting("fidelity"),
        metavar="F",
        help="0 stays closest to the original, 1 looks most real; for models that have "
        "both (default: the model's)",
    )
    content = parser.add_mutually_exclusive_group()
    content.add_argument(
        "--tags", metavar="TAG,TAG", help='what the images show; "" for nothing'
    )
    content.add_argument(
        "--tagger",
        metavar="NAME",
        help="network that tags each image: light, ram:FOLDER or none (default: the "
        "model's, which is none for the bundled models)",
    )
    content.add_argument(
        "--condition",
        type=Path,
        metavar="FILE",
        help="features in place of tags, for models that take them (.safetensors)",
    )
    parser.add_argument(
        "--guidance-scale",
        type=setting("guidance_scale"),
        default=1.0,
        metavar="W",
        help="strength of the tags; any value but 1, the default, doubles the time",
    )
    add_fixes(parser)
    add_uncertainty(parser)
    add_max_pixels(parser)
    parser.add_argument(
        "--offload-experts",
        action="store_true",
        help="keep at most two experts on the device: less memory, slower",
    )
    add_computation(parser)
    add_json(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="IN",
        help='image file, folder, pattern such as "in/**/*.jpg", or - for standard '
        "input",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="file for one image (the suffix chooses the format), otherwise a folder; "
        "- for standard output",
    )
    parser.add_argument(
        "--repeat",
        type=Path,
        metavar="FILE",
        help="make the same output again: all settings are those of FILE, an earlier "
        "output or its .json, and so is IN if it lies beside",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="search folders inside folders too"
    )
    parser.add_argument(
        "--suffix",
        default="",
        metavar="TEXT",
        help="in a folder: text after each input's name, e.g. _x4",
    )
    add_format(parser)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing outputs, but never an input",
    )
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave existing outputs as they are, as always in a folder",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="of N processes or machines that share the work, do the part of the I-th",
    )


def run(args: argparse.Namespace) -> int:
    """Upscales every input; one that fails does not stop the others."""
    report = BatchReport(is_json=args.json)
    if args.output == "-" and args.json:
        raise UsageError("-o - and --json both write to standard output; drop one")
    if args.output == "-" and sys.stdout.isatty():
        raise UsageError("-o -: standard output is a terminal; redirect it")
    try:
        with report:
            for event in run_beside(lambda: _work(args)):
                report.add(event)
    except Stopped as stopped:
        _end_now(report, stopped)
    except Exception as error:
        report.fail(error)
        raise
    return report.finish()


def _work(args: argparse.Namespace) -> Iterator["Plan | Output | Failure"]:
    """Yields the plan, and then what becomes of each image."""
    from linearsr_jax.core.files import remove_abandoned
    from linearsr_jax.core.image_formats import IMAGE_SUFFIXES
    from linearsr_jax.inference.batch_inputs import PlanError
    from linearsr_jax.inference.batch_plan import Naming, make_plan
    from linearsr_jax.inference.errors import UpscaleError
    from linearsr_jax.inference.sizes import OutputSize

    if args.uncertainty is not None and args.output == "-":
        raise UsageError("--uncertainty writes a second file; give a file with -o")
    repeated, is_seed_given = None, args.seed is not None
    args.seed = args.seed or 0
    if args.repeat is not None:
        repeated, is_seed_given = set_arguments(args), False
    elif not args.inputs:
        raise UsageError("name an image, a folder, a pattern or -")
    suffix = Path(args.output).suffix.lower()
    if args.format and suffix in IMAGE_SUFFIXES and suffix != f".{args.format}":
        raise UsageError(f"--format {args.format} and -o {args.output}: drop one")
    try:
        plan = make_plan(
            args.inputs,
            args.output,
            recursive=args.recursive,
            naming=Naming(
                args.suffix,
                args.format and f".{args.format}",
                has_map=args.uncertainty is not None,
            ),
            overwrite=args.overwrite,
            skip_existing=args.skip_existing,
            shard=args.shard,
        )
        OutputSize(args.scale, args.size, args.max_side)
    except (PlanError, UpscaleError) as error:
        raise UsageError(str(error)) from error
    yield plan
    for folder in plan.places:
        remove_abandoned(folder)
    if plan.jobs:
        # All that is above takes no JAX: a finished batch is finished at once.
        yield from _upscale(args, plan, repeated, is_seed_given=is_seed_given)


def _upscale(
    args: argparse.Namespace,
    plan: "Plan",
    repeated: "Manifest | None",
    *,
    is_seed_given: bool,
) -> Iterator["Output | Failure"]:
    from linearsr_jax.core.image_io import MAX_PIXELS
    from linearsr_jax.inference.batch import upscale_files
    from linearsr_jax.inference.batch_files import FileOptions
    from linearsr_jax.inference.compilation_cache import (
        announce_compiling,
        enable_compilation_cache,
    )
    from linearsr_jax.inference.guidance import condition_from_file
    from linearsr_jax.inference.upscaler import Upscaler

    enable_compilation_cache()
    announce_compiling()
    upscaler = Upscaler.from_pretrained(
        args.model,
        offload_experts=args.offload_experts,
        max_memory=args.max_memory,
        dtype=args.dtype,
        devices=args.devices,
        on_part=PartsBar(),
    )
    _warn_of_settings(args, upscaler.model, is_seed_given=is_seed_given)
    condition = None
    if args.condition:
        condition = condition_from_file(args.condition, upscaler.model.preset)
    manifest = make_manifest(args, upscaler)
    if repeated is not None:
        warn_of_differences(args.repeat, repeated, manifest)
    yield from upscale_files(
        upscaler,
        plan.jobs,
        find_tags=_tag_finder(args, upscaler),
        files=FileOptions(
            args.quality,
            args.max_pixels or MAX_PIXELS,
            stream_suffix=f".{args.format or 'png'}",
            seeds=args.uncertainty,
            overwrite=args.overwrite,
        ),
        manifest=manifest,
        steps=args.steps,
        seed=args.seed,
        condition=condition,
        guidance_scale=args.guidance_scale,
        fidelity=args.fidelity,
        scale=args.scale,
        size=args.size,
        max_side=args.max_side,
        color_fix=COLOR_FIXES[args.color_fix],
        consistent=args.consistent,
    )


def _warn_of_settings(
    args: argparse.Namespace, model: "PretrainedModel", *, is_seed_given: bool
) -> None:
    """Warns of settings that make an output worse, or do nothing."""
    from linearsr_jax.inference.sampling import is_random

    if model.is_of_one_step and (args.steps or 1) > 1:
        _logger.warning(
            "linearsr: model %s was trained for one step; more take longer and look "
            "worse",
            model.name,
        )
    if is_seed_given and not is_random(
        model.preset, args.steps or model.preset.default_steps
    ):
        _logger.warning(
            "linearsr: --seed does nothing: model %s in one step draws nothing",
            model.name,
        )
    is_told = args.tags or args.condition
    if args.tags is None:
        is_told = is_told or (args.tagger or model.tagger) != "none"
    if args.guidance_scale != 1 and not is_told:
        _logger.warning("linearsr: --guidance-scale does nothing without tags")


def _tag_finder(args: argparse.Namespace, upscaler: "Upscaler") -> Callable:
    """Returns a function from an image to its tags: the user's, or a tagger's."""
    from linearsr_jax.tagging import load_tagger

    if args.condition or args.tags is not None:
        # Once, with one warning about those that the model does not know.
        tags = upscaler.select_tags(args.tags or "")
        return lambda pixels: tags
    tagger = load_tagger(args.tagger or upscaler.model.tagger)
    return lambda pixels: [tag for tag, _ in tagger(pixels)]


def _end_now(report: BatchReport, stopped: Stopped) -> None:
    """Reports, and ends the process, whose other threads cannot be stopped."""
    from linearsr_jax.core.files import abandon_unfinished

    abandon_unfinished()
    report.finish(interrupted_by=str(stopped))
    sys.stdout.flush()
    sys.stderr.flush()
    abandon_unfinished()
    os._exit(128 + stopped.signal)
