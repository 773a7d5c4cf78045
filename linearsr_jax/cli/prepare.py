"""`linearsr prepare`: stores photographs in a form that trains faster.

Every file is decoded once; files that cannot be decoded are named and left out. The
result appears under its name only when complete. Pass it to training as data.folder.
"""

import argparse
import logging
from pathlib import Path

from linearsr_jax.cli.arguments import add_overwrite, positive
from linearsr_jax.data.layouts import DATASETS

HELP = "write photographs in a form that trains faster"

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    forms = parser.add_subparsers(dest="form", required=True, metavar="FORM")
    packed = forms.add_parser("packed", help="one file, for slow file systems")
    packed.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="folder of photographs, searched recursively",
    )
    packed.add_argument(
        "output", type=Path, metavar="OUT.safetensors", help="file to write"
    )
    packed.add_argument(
        "--max-side",
        type=positive,
        metavar="N",
        help="shrink photographs with longer sides to N pixels, as JPEG",
    )
    decoded = forms.add_parser(
        "decoded", help="one file of pixels, for small models on CPUs"
    )
    decoded.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="folder, searched with all folders inside it",
    )
    decoded.add_argument(
        "output",
        type=Path,
        metavar="OUT.safetensors",
        help="file to write, 3 bytes a pixel",
    )
    dataset = forms.add_parser(
        "tfds", help="a sharded TFDS dataset, for many photographs"
    )
    layouts = "; ".join(f"{n}: {x.describe()}" for n, x in DATASETS.items())
    dataset.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help=f"root of the dataset; its folders are, for {layouts}",
    )
    dataset.add_argument(
        "output",
        type=Path,
        metavar="DATA_DIR",
        help="folder to write linearsr_photos/DATASET/VERSION into",
    )
    dataset.add_argument(
        "--dataset",
        choices=DATASETS,
        default="photos",
        help="layout of PHOTOS (default: photos)",
    )
    for form in (packed, decoded, dataset):
        add_overwrite(form, "an existing result")


def run(args: argparse.Namespace) -> int:
    """Writes one form, and names the photographs left out."""
    write = {"packed": _write_packed, "decoded": _write_decoded, "tfds": _write_dataset}
    rejected = write[args.form](args)
    for name, reason in rejected.items():
        _logger.warning("left out %s: %s", name, reason)
    return 0


def _write_packed(args: argparse.Namespace) -> dict[str, str]:
    from linearsr_jax.data.prepare import pack_folder

    count, rejected = pack_folder(
        args.photos, args.output, max_side=args.max_side, overwrite=args.overwrite
    )
    _report(args.output, count)
    return rejected


def _write_decoded(args: argparse.Namespace) -> dict[str, str]:
    from linearsr_jax.data.decoded import write_decoded

    count, rejected = write_decoded(args.photos, args.output, overwrite=args.overwrite)
    _report(args.output, count)
    return rejected


def _report(path: Path, count: int) -> None:
    mebibytes = path.stat().st_size / 2**20
    print(f"{path}: {count} photographs, {mebibytes:.1f} MiB")


def _write_dataset(args: argparse.Namespace) -> dict[str, str]:
    from linearsr_jax.data.tfds_builder import prepare_dataset

    folder, counts, rejected = prepare_dataset(
        args.dataset, args.photos, args.output, overwrite=args.overwrite
    )
    for split, count in counts.items():
        print(f"{folder}/{split}: {count} photographs")
    return rejected
