"""The `linearsr` command: parses, dispatches, and turns errors into exit codes.

A command is a module of this folder with HELP, `add_arguments(parser)` and
`run(args)`, which returns the exit code: 0 done, 1 failed, 2 wrong usage, 3 planned
but does not fit, 69 not all hosts came, 75 stopped by a signal with a checkpoint, 130
ended by Ctrl-C, 143 by SIGTERM. Commands import what they run inside `run`, so that
--help need not wait for JAX. With --json the last line of standard output is one JSON
object; logs go to standard error.
"""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

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
from linearsr_jax.core.error_lines import describe_error
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
    except Exception as error:
        return _fail(args, error, 1)


def make_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands; its result names the command."""
    parser = _Parser(
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Without the usage, which fills the screen and is in --help.
        self.exit(2, f"linearsr: {message}; see {self.prog} --help\n")


def _fail(args: argparse.Namespace, error: Exception, code: int) -> int:
    logger.debug("linearsr: traceback", exc_info=error)
    print(f"linearsr: {_describe(args.command, error)}", file=sys.stderr)
    return code


def _describe(command: str, error: Exception) -> str:
    """Returns one line about an error, with the cure if there is one."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in TRAINING_PACKAGES:
            return f"{command} needs more packages; run: {_INSTALL_TRAINING}"
        if package and importlib.util.find_spec(package) is None:
            return f"{command} needs the package {package}, which is not installed"
    return describe_error(error)
