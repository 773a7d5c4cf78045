"""`linearsr text`: encodes text into the features that SANA's models take."""

import argparse
import json
from pathlib import Path

from linearsr_jax.cli.arguments import UsageError, add_dtype, add_json, add_overwrite
from linearsr_jax.cli.progress import progress

HELP = "encode text into the features that SANA's models take"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "text", nargs="?", metavar="TEXT", help='what an image shows; "" for nothing'
    )
    parser.add_argument(
        "--tags",
        type=Path,
        metavar="CACHE",
        help="in place of TEXT: a folder's tags, from linearsr tag --cache",
    )
    parser.add_argument(
        "--encoder",
        required=True,
        type=Path,
        metavar="DIR",
        help="encoder, from linearsr convert --from gemma2",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="safetensors file to write: with TEXT for upscale --condition, with "
        "--tags for condition.file in training (resumes)",
    )
    parser.add_argument(
        "--instruction",
        type=Path,
        metavar="FILE",
        help="prompt that SANA puts before each text (default: none)",
    )
    add_dtype(parser, "precision of the computation and the features")
    add_overwrite(parser, "an existing output")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Encodes one text, or the tags of each image of a cache."""
    from linearsr_jax.tagging.cache import load_tag_cache
    from linearsr_jax.text_encoder import files as text_files
    from linearsr_jax.text_encoder.encoder import TextEncoder

    if (args.text is None) == (args.tags is None):
        raise UsageError("text: give either TEXT or --tags CACHE")
    text_files.check_output(args.output, overwrite=args.overwrite)
    # Before the weights, which take long to load.
    tags = None if args.tags is None else load_tag_cache(args.tags)
    instruction = text_files.find_instruction(args.instruction)
    encoder = TextEncoder.load(args.encoder, args.dtype, instruction)
    if tags is None:
        counts = text_files.write_condition(encoder, args.text, args.output)
    else:
        counts = text_files.write_features(
            encoder, tags, args.output, progress("texts")
        )
    if args.json:
        print(json.dumps({"output": str(args.output), **counts}))
    else:
        print(
            f"{args.output}: " + ", ".join(f"{n} {what}" for what, n in counts.items())
        )
    return 0
