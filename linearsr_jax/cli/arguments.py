"""Arguments that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from linearsr_jax.core.errors import LinearSRError
from linearsr_jax.inference.checked_settings import parsed
from linearsr_jax.inference.errors import UpscaleError

# Exit code of a training that a signal ended before its last step: the same command
# continues it. BSD's EX_TEMPFAIL.
STOPPED = 75


class UsageError(LinearSRError):
    """Arguments that do not go together; exit code 2."""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds image files and folders, and whether to search folders inside them."""
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IN", help="image file or folder"
    )
    parser.add_argument(
        "--recursive", action="store_true", help="search folders inside folders too"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model, nano unless given."""
    parser.add_argument(
        "--model",
        default="nano",
        metavar="MODEL",
        help="bundled model or model folder (default: nano)",
    )


def add_workdir(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds --workdir, and --override with this example of it."""
    parser.add_argument(
        "--workdir",
        required=True,
        type=workdir,
        metavar="DIR",
        help="folder for checkpoints and logs",
    )
    add_override(parser, example)


def add_override(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds --override, with an example for its help."""
    parser.add_argument(
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help=f"change fields of the config, e.g. {example}",
    )


def add_dtype(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Adds --dtype, whose help says what it is for."""
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help=f"{purpose} (default: float32)",
    )


def add_computation(parser: argparse.ArgumentParser) -> None:
    """Adds --max-memory, --devices and --dtype, on how a model computes."""
    parser.add_argument(
        "--max-memory",
        type=setting("max_memory"),
        metavar="GB",
        help="memory for one image, besides the weights; larger images are upscaled "
        "in bands, with the same result (default: half of the machine's, 80 %% of an "
        "accelerator's)",
    )
    parser.add_argument(
        "--devices",
        type=positive,
        default=1,
        metavar="N",
        help="split the rows of each image over N GPUs or TPU chips of this machine",
    )
    add_dtype(parser, "precision; bfloat16 suits large models on accelerators")


def add_seed(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Adds --seed, whose help says what it is for; None, which is 0, unless given."""
    parser.add_argument(
        "--seed",
        type=setting("seed"),
        metavar="N",
        help=f"{purpose} (default: 0)",
    )


def add_overwrite(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --overwrite, off unless given."""
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def workdir(text: str) -> Path:
    """Parses the folder of a run.

    Raises:
      argparse.ArgumentTypeError: it is the address of a bucket.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no folder; give one that all hosts mount: Filestore, NFS, "
            "Lustre"
        )
    return Path(text)


def positive(text: str) -> int:
    """Parses a whole number above 0.

    Raises:
      argparse.ArgumentTypeError: it is not one.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def index(text: str) -> int:
    """Parses a whole number, 0 or above.

    Raises:
      argparse.ArgumentTypeError: it is not one.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def setting(name: str) -> Callable[[str], Any]:
    """Returns the parser of a setting that the Python API takes under this name.

    Args:
      name: one of `checked_settings.SETTINGS`, which has its range.
    """

    def parse(text: str) -> Any:
        try:
            return parsed(name, text)
        except UpscaleError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def settings(name: str) -> Callable[[str], list[Any]]:
    """Returns the parser of several values with commas between; see `setting`."""
    parse = setting(name)
    return lambda text: [parse(part) for part in text.split(",")]


def shard(text: str) -> tuple[int, int]:
    """Parses a share of the work, i/n with 1 <= i <= n.

    Raises:
      argparse.ArgumentTypeError: it is not one.
    """
    index, _, count = text.partition("/")
    is_whole = index.isdecimal() and count.isdecimal()
    if not is_whole or not 1 <= int(index) <= int(count):
        raise argparse.ArgumentTypeError(f"{text!r} is no share i/n, such as 1/4")
    return int(index), int(count)
