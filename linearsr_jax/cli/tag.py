"""`linearsr tag`: lists the tags that describe images."""

import argparse
import json
from pathlib import Path

from linearsr_jax.cli.arguments import UsageError, add_inputs, add_json
from linearsr_jax.cli.progress import progress

HELP = "list the tags that describe images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_inputs(parser)
    parser.add_argument(
        "--tagger",
        default="light",
        metavar="NAME",
        help="light (bundled; the default), ram:FOLDER or none",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FILE.jsonl",
        help="write the tags of a folder and all folders inside it, for training; "
        "resumes",
    )
    parser.add_argument(
        "--lr", action="store_true", help="with --cache: tag the images reduced x4"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Tags every input; one that fails does not stop the others."""
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.tagging import files as tag_files
    from linearsr_jax.tagging import load_tagger

    enable_compilation_cache()
    if args.cache and (len(args.inputs) > 1 or not args.inputs[0].is_dir()):
        raise UsageError("tag: --cache takes one folder; give one, and no files")
    if args.lr and not args.cache:
        raise UsageError("tag: --lr needs --cache; give both")
    tagger = load_tagger(args.tagger)
    missing = 0
    if args.cache:
        found = tag_files.tag_folder(
            tagger,
            args.inputs[0],
            args.cache,
            is_lr=args.lr,
            progress=progress("images"),
        )
    else:
        files, missing = tag_files.find_files(args.inputs, recursive=args.recursive)
        found = tag_files.tag_files(tagger, files, progress("images"))
    is_printed = not (args.json or args.cache)
    images, failures = tag_files.report(found, is_printed=is_printed)
    if args.json:
        print(json.dumps({"images": images}))
    elif args.cache:
        print(f"{args.cache}: tags of {len(images)} images")
    return 1 if failures or missing else 0
