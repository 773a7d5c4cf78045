"""The `linearsr` command: parses, dispatches, and turns errors into exit codes.

A command is a module of this folder with HELP, `add_arguments(parser)` and
`run(args)`, which returns the exit code: 0 done, 1 failed, 2 wrong usage, 3 planned
but does not fit, 69 not all hosts came, 75 stopped by a signal with a checkpoint, 130
ended by Ctrl-C, 143 by SIGTERM. Commands import what they run inside `run`, so that
--help need not wait for JAX. With --json the last line of standard output is one JSON
object; logs go to standard error.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from linearsr_jax.cli import (
    bench,
    convert,
    demo,
    finetune,
    info,
    knee,
    plan,
    prepare,
    report,
    tag,
    text,
    train,
    upscale,
)
from linearsr_jax.cli import eval as evaluate
from linearsr_jax.cli.arguments import UsageError
from linearsr_jax.core.version import __version__

logger = logging.getLogger("linearsr_jax")

# What the extra `train` installs, as it is imported. In an environment that has this
# package pip adds only what is missing, wherever the package came from.
TRAINING_PACKAGES = {
    "absl",
    "clu",
    "grain",
    "ml_collections",
    "scipy",
    "tensorboardX",
    "tensorflow_datasets",
}
_INSTALL_TRAINING = 'pip install "linearsr_jax[train]"'

# In the order in which --help lists them.
COMMANDS = {
    "upscale": upscale,
    "demo": demo,
    "tag": tag,
    "train": train,
    "finetune": finetune,
    "eval": evaluate,
    "knee": knee,
    "report": report,
    "plan": plan,
    "prepare": prepare,
    "text": text,
    "convert": convert,
    "bench": bench,
    "info": info,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        return _run(make_parser().parse_args(argv))
    except KeyboardInterrupt:
        print("linearsr: interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True
    )
    logger.setLevel(logging.DEBUG if args.debug else logging.INFO)
    try:
        return COMMANDS[args.command].run(args)
    except UsageError as error:
        return _fail(args, error, 2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINING_PACKAGES:
            raise
        text = f"{args.command} needs more packages; run: {_INSTALL_TRAINING}"
        return _fail(args, UsageError(text), 1)
    except Exception as error:
        if not _is_expected(error):
            logger.error("linearsr: this is a bug; --debug shows where")
        return _fail(args, error, 1)


def make_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands; its result names the command."""
    parser = argparse.ArgumentParser(
        prog="linearsr",
        description="x4 super-resolution of photographs with linear attention",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.HELP, description=command.HELP
        )
        subparser.add_argument(
            "--debug", action="store_true", help="show a traceback on failure"
        )
        command.add_arguments(subparser)
    return parser


def _fail(args: argparse.Namespace, error: Exception, code: int) -> int:
    if args.debug:
        logger.exception("linearsr: failed")
    else:
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        print(f"linearsr: {text}", file=sys.stderr)
    return code


def _is_expected(error: Exception) -> bool:
    # Errors of our own modules and of the file system are about the user's input.
    own = type(error).__module__.startswith("linearsr_jax")
    return own or isinstance(error, (OSError, ValueError))
