"""`linearsr finetune`: teaches a model the user's own photographs."""

import argparse
import json
from pathlib import Path

from linearsr_jax.cli.arguments import (
    STOPPED,
    UsageError,
    add_json,
    add_model,
    add_workdir,
)
from linearsr_jax.cli.progress import progress

HELP = "fine-tune a model on your own photographs, or resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "photos", type=Path, metavar="DIR", help="folder of 20 photographs or more"
    )
    add_model(parser)
    add_workdir(parser, "steps=10000")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fine-tunes, and compares before and after on held-out photographs."""
    from linearsr_jax.config.loading import ConfigError
    from linearsr_jax.core.allocator import keep_freed_memory_on_cpu
    from linearsr_jax.evaluation import tables
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.training.finetune import finetune
    from linearsr_jax.training.record import BadFieldError

    enable_compilation_cache()
    keep_freed_memory_on_cpu()
    try:
        result = finetune(
            args.photos,
            args.workdir,
            model=args.model,
            overrides=args.override,
            progress=progress("images"),
        )
    except (ConfigError, BadFieldError) as error:
        raise UsageError(str(error)) from error
    if args.json:
        found: dict = {"model": None}
        if result is not None:
            found = {"model": str(result.model)}
            found |= {name: tables.to_json(x) for name, x in result.tables.items()}
        print(json.dumps(found))
    elif result is not None:
        for name, rows in result.tables.items():
            print(f"held-out photographs, {name} input")
            print(tables.format_table(rows) + "\n")
        print(f"linearsr upscale IN -o OUT --model {result.model}")
    return STOPPED if result is None else 0
