"""`linearsr upscale`: enlarges images four times."""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

from linearsr_jax.cli.arguments import (
    add_dtype,
    add_inputs,
    add_json,
    add_model,
    add_overwrite,
    add_seed,
    fidelity,
    positive,
)

HELP = "upscale images x4"

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_inputs(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help="file (.png .jpg .webp .bmp .tif) for one image, otherwise a folder",
    )
    add_model(parser)
    parser.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="network evaluations: 1 stays closest to the original, more add detail "
        "(default: the model's)",
    )
    add_seed(parser, "selects the detail that is added")
    parser.add_argument(
        "--fidelity",
        type=fidelity,
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
        "model's)",
    )
    content.add_argument(
        "--condition",
        type=Path,
        metavar="FILE",
        help="features in place of tags, for models that take them (.safetensors)",
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        default=1.0,
        metavar="W",
        help="strength of the tags; any value but 1, the default, doubles the time",
    )
    parser.add_argument(
        "--max-memory",
        type=float,
        metavar="GB",
        help="memory for one image, besides the weights; larger images are upscaled "
        "in bands, with the same result (default: half of the machine's, 80 %% of an "
        "accelerator's)",
    )
    parser.add_argument(
        "--offload-experts",
        action="store_true",
        help="keep at most two experts on the device: less memory, slower",
    )
    add_dtype(parser, "precision; bfloat16 suits large models on accelerators")
    add_overwrite(parser, "existing outputs")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Upscales every input; one that fails does not stop the others."""
    from linearsr_jax.inference.batch import plan_outputs, upscale_files
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.inference.guidance import condition_from_file
    from linearsr_jax.inference.upscaler import Upscaler

    enable_compilation_cache()
    jobs = plan_outputs(args.inputs, args.output, recursive=args.recursive)
    upscaler = Upscaler.from_pretrained(
        args.model,
        offload_experts=args.offload_experts,
        max_memory=args.max_memory,
        dtype=args.dtype,
    )
    condition = None
    if args.condition:
        condition = condition_from_file(args.condition, upscaler.model.preset)
    outputs, failures = upscale_files(
        upscaler,
        jobs,
        overwrite=args.overwrite,
        find_tags=_tag_finder(args, upscaler.model.tagger),
        steps=args.steps,
        seed=args.seed,
        condition=condition,
        guidance_scale=args.guidance_scale,
        fidelity=args.fidelity,
    )
    if args.json:
        print(json.dumps({"outputs": outputs}))
    if failures and len(jobs) > 1:
        _logger.error("linearsr: %d of %d images failed", failures, len(jobs))
    return 1 if failures else 0


def _tag_finder(args: argparse.Namespace, default_tagger: str) -> Callable:
    """Returns a function from an image to its tags: the user's, or a tagger's."""
    from linearsr_jax.tagging import load_tagger
    from linearsr_jax.tagging.vocabulary import parse_tags

    if args.condition or args.tags is not None:
        tags = parse_tags(args.tags or "")
        return lambda pixels: tags
    tagger = load_tagger(args.tagger or default_tagger)
    return lambda pixels: [tag for tag, _ in tagger(pixels)]
